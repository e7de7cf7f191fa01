"""The feed beside other readers of the same images: python -m alexnet_dist.bench data root=photographs"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.table import Table

from alexnet_dist import text
from alexnet_dist.bench.apart import readers_apart
from alexnet_dist.bench.readers import FEED, Asked
from alexnet_dist.bench.rounds import machine, new_file, ratio, write
from alexnet_dist.data.images import open_split
from alexnet_dist.data.packed import PackedImages, open_packed
from alexnet_dist.errors import UserError
from alexnet_dist.fields import FilePath, Pixels, Positive, Threads, check, strict
from alexnet_dist.parallel.process import pick_device, share_cores
from alexnet_dist.planning.work import take_turns
from alexnet_dist.prepare import PrepareSettings, prepare
from alexnet_dist.tracking.display import Display

# Files that train takes and torchvision.io.decode_image does not.
UNREAD = (".bmp", ".ppm", ".pgm", ".tif", ".tiff")


@dataclass(frozen=True, config=strict)
class BenchDataSettings:
    """conf/bench_data.yaml, checked."""

    root: FilePath | None
    size: Pixels
    crop: Positive
    batch_size: Positive
    rounds: Positive
    seconds: Annotated[float, Field(gt=0)]
    threads: Threads | Literal["auto"]
    device: Literal["auto", "cpu", "cuda"]
    output: FilePath | None


def run(config: dict[str, Any]) -> None:
    """Measure all readers on the images as they are and on the packed ones, print two tables and write the figures."""
    settings = check(BenchDataSettings, config)
    if settings.root is None:
        raise UserError("root is not set: name an image folder with train/, as in root=photographs")
    if settings.crop > settings.size:
        raise UserError(f"crop={settings.crop} is more than size={settings.size}: set it to {settings.size} or less")
    folder = Path(settings.root) / "train"
    if not folder.is_dir():
        raise UserError(f"root={settings.root} has no folder train/: name an image folder with one")
    images = open_split(folder)  # which says what is wrong with it, before anything is written
    if unread := next((name for name in map(images.name, range(len(images))) if name.lower().endswith(UNREAD)), None):
        raise UserError(f"torchvision's decoder, which is measured too, does not read {unread}: name JPEG, PNG or WebP")
    if len(images) < settings.batch_size:
        raise UserError(f"{folder} has {len(images)} images, fewer than a batch: set batch_size={len(images)} or less")
    output = new_file(settings.output, "data")
    device = pick_device(settings.device, 0)
    threads = share_cores(1) if isinstance(settings.threads, str) else settings.threads

    with Display(rank=0) as display, tempfile.TemporaryDirectory() as scratch:
        source, packed, files = (Path(scratch) / name for name in ("source", "packed", "files"))
        source.mkdir()
        (source / "train").symlink_to(folder.resolve())  # and no val/, which is not measured
        write_files(pack(source, settings, threads, packed, display), files / "train")
        cases = {}
        for case, own, own_files in (
            ("files as they are", folder, folder),
            (f"packed at {settings.size} pixels", packed, files / "train"),
        ):
            asked = Asked(own, own_files, settings.size, settings.crop, settings.batch_size, threads, device)
            rates = measure(asked, settings, partial(display.show, case))
            cases[case] = {"images": len(asked.images()), "images_per_second": rates}
            display.console.print(table(case, rates, machine()["cores"]))
    write(output, {"bench": "data", "machine": machine(), "settings": config, "threads": threads, "cases": cases})
    print(f"figures are in {output}")


def measure(asked: Asked, settings: BenchDataSettings, show: Callable[[int, int], None]) -> dict[str, list[float]]:
    """Images a second of every reader, a figure a round; what it does in two epochs before each is not in it.

    Each has a process of its own, so that none runs in what another leaves behind, such as memory in pieces.
    """
    with readers_apart(asked) as readers:
        warm_up = 2 * (len(asked.images()) // settings.batch_size)
        turns = {name: partial(reader.measure, settings.seconds, warm_up) for name, reader in readers.items()}
        return take_turns(turns, settings.rounds, show)


def pack(root: Path, settings: BenchDataSettings, workers: int, output: Path, display: Display) -> PackedImages:
    """The training images of an image folder as a packed set of squares."""
    packing = {
        "source": "imagefolder", "root": str(root), "output": str(output), "size": settings.size, "quality": 95,
        "max_skipped": 1.0, "workers": workers, "samples_per_shard": "auto",
    }  # fmt: skip
    prepare(check(PrepareSettings, packing), display)
    return open_packed(output)[0]


def write_files(packed: PackedImages, folder: Path) -> None:
    """The images of a packed set as files in class folders, for readers that know no shards."""
    for index, label in enumerate(packed.labels):
        path = folder / f"{label:04d}" / f"{index:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed.read(index).tobytes())


def table(case: str, rates: dict[str, list[float]], cores: int) -> Table:
    """Medians, and the feed's rate over each reader's in the same round."""
    numbers = ("images/s", "per core", "feed / reader")
    rows = [
        (name, f"{median(own):.0f}", f"{median(own) / cores:.0f}", f"{ratio(rates, FEED, name):.2f}")
        for name, own in rates.items()
    ]
    return text.table(case, ("reader", *numbers), rows, numbers)
