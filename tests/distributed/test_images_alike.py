"""Processes that list other images than each other do not train."""

from pathlib import Path

import pytest
import torch

from alexnet_dist.checks import check_settings
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.inputs import open_images
from tests.distributed.processes import run_processes
from tests.packing.miniature import encoded, photo, write_files

MIDDLE = "train/a/2.jpg"


def _opened(roots: list[str]) -> str:
    """What a process says of its own copy of the images."""
    with join_mesh(2, torch.device("cpu"), timeout=60) as mesh, Display(1) as display:
        settings = check_settings(compose("train", ["data=imagenet", f"data.root={roots[mesh.rank]}", "trainer.batch_size=2"]))
        try:
            return str(len(open_images(settings, mesh, display)[0]))
        except UserError as error:
            return str(error)


@pytest.mark.parametrize("differs", ["", "lacks", "another"])
def test_copies_that_differ_are_refused(differs: str, tmp_path: Path) -> None:
    files = {f"{split}/{name}/{n}.jpg": encoded(photo(n)) for split in ("train", "val") for name in "ab" for n in range(4)}
    first = write_files(tmp_path / "first", files)
    second = write_files(tmp_path / "second", {name: data for name, data in files.items() if not differs or name != MIDDLE})
    if differs == "another":
        write_files(second, {"train/a/9.jpg": files[MIDDLE]})
    said = run_processes(_opened, 2, [str(first), str(second)])
    if not differs:
        assert said == ["8", "8"]
        return
    all_of_it, here = (f"{count} training and 8 validation images" for count in (8, 8 if differs == "another" else 7))
    for root, line in zip((first, second), said, strict=True):
        assert line.startswith(f"{root} is not the same for all processes: process 0 lists {all_of_it} and process 1 {here}, not")
