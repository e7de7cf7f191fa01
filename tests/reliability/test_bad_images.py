"""Images that cannot be decoded: a run that meets one ends with a checkpoint, or goes on without it, the same on every layout."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alexnet_dist.data.bad_image import BadImage
from alexnet_dist.data.images import open_folder
from alexnet_dist.data.sampling import at_positions, epoch_order
from alexnet_dist.tracking.display import Display
from alexnet_dist.tracking.run_folder import RunFolder
from alexnet_dist.training.bad_images import leave_out
from tests.commands import read_metrics, read_tensors, train
from tests.forked import ranks, run_forked

# Of the 320 images 20 batches make an epoch. The mean image is that of 16 of them, and none of those is spoilt.
RUN = (
    "tracking=none", "run.report=false", "data.root=images", "run.dir=run", "data.statistics_images=16", "trainer.batch_size=16",
    "trainer.max_steps=23", "trainer.log_every=1", "evaluation.views=1", "optimizer.lr=0.01", "seed=2",
)  # fmt: skip
FIRST, SECOND = epoch_order(2, 0, 320), epoch_order(2, 1, 320)
IN_MEAN = set(epoch_order(0, 0, 320)[:16].tolist())


def spoilt(images: Path, folder: Path, spoil: Mapping[int, str]) -> list[str]:
    """A copy of the images, folder/images, in which these training samples are bad; their names."""
    shutil.copytree(images, folder / "images")
    train_images, _ = open_folder(folder / "images")
    assert not IN_MEAN & set(spoil)
    for sample, how in spoil.items():
        path = Path(train_images.name(sample))
        data = path.read_bytes()
        path.write_bytes({"text": b"this is no JPEG", "cut": data[: len(data) * 3 // 4], "empty": b""}[how])
    return [train_images.name(sample).split(f"{folder}/")[1] for sample in spoil]


def run(*words: str, cwd: Path, processes: int = 2) -> CompletedProcess[str]:
    return run_forked("train", *RUN, *words, cwd=cwd, environments=ranks(processes))


def only_line(done: CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()  # and none of the decoder's own
    assert len(lines) == 1, done.stderr
    return lines[0]


def table_of(run_dir: Path) -> list[list[str]]:
    return [line.split("\t") for line in (run_dir / "bad_images.tsv").read_text().splitlines()]


@pytest.mark.parametrize(
    ("position", "how", "step", "reason"),
    [(4 * 16 + 9, "text", 4, "not an image"), (3, "text", 0, "not an image"), (4 * 16 + 9, "cut", 4, "damaged")],
)
def test_a_run_that_meets_a_bad_image_ends_with_a_checkpoint(
    few_images: Path, tmp_path: Path, position: int, how: str, step: int, reason: str
) -> None:
    (name,) = spoilt(few_images, tmp_path, {int(FIRST[position]): how})
    done = run(cwd=tmp_path)
    assert done.returncode == 2
    line = only_line(done)
    assert line.startswith(f"error: {name} cannot be decoded ({reason}")
    if step:
        assert "or leave it out with data.on_bad=skip" in line
        assert line.endswith(f"; step {step} is saved, from which run.dir=run goes on")
        assert (tmp_path / "run/checkpoints/latest").read_text().strip() == f"step-{step:08d}"
    done = run("data.on_bad=skip", "data.max_bad=0.01", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("resumed from" in done.stdout) == bool(step)
    assert [row[0] for row in table_of(tmp_path / "run")] == ["file", name]


@pytest.mark.slow
def test_without_bad_images_a_run_is_the_same_on_every_layout_and_when_resumed(few_images: Path, tmp_path: Path) -> None:
    spoil = {
        int(FIRST[1]): "text",
        # Of two parts of one batch, and the second's successor.
        **{int(FIRST[16 * 7 + place]): how for place, how in ((2, "cut"), (12, "text"), (13, "empty"))},
        int(FIRST[319]): "text",
        int(SECOND[16 + 15]): "cut",
    }
    names = spoilt(few_images, tmp_path, spoil)
    weights = {}
    skip = (*RUN, "data.on_bad=skip", "data.max_bad=0.1", "trainer.slices=2")
    for processes in (1, 2, 4):
        train(*skip, f"parallel.processes={processes}", f"run.dir=on{processes}", cwd=tmp_path)
        weights[processes] = read_tensors(tmp_path / f"on{processes}")
        table = table_of(tmp_path / f"on{processes}")
        assert sorted(row[0] for row in table) == sorted(["file", *names])
        assert all(len(row) == 2 for row in table)
    assert run_forked("report", "run=on1", cwd=tmp_path).returncode == 0
    assert "Predictions, neighbours and confusion need the images" not in (tmp_path / "on1" / "report.html").read_text()
    train(*skip, "run.dir=in_two", "parallel.processes=2", "trainer.max_steps=9", cwd=tmp_path)
    train(*skip, "run.dir=in_two", "parallel.processes=4", cwd=tmp_path)
    weights[0] = read_tensors(tmp_path / "in_two")
    assert len(table_of(tmp_path / "in_two")) == 1 + len(names)
    for other in (2, 4, 0):
        assert all(torch.equal(tensor, weights[other][name]) for name, tensor in weights[1].items())


def test_the_next_of_the_order_takes_the_place_of_what_is_left_out() -> None:
    order = np.array([5, 3, 0, 4, 1, 2])
    assert at_positions(order, np.arange(2, 6), [0, 4, 2]).tolist() == [1, 1, 1, 5]
    assert at_positions(order, np.arange(2, 6)).tolist() == [0, 4, 1, 2]


def test_a_table_of_bad_images_that_cannot_be_written_costs_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad_images.tsv").mkdir()
    state, mesh = SimpleNamespace(left_out=(), images_per_epoch=10), SimpleNamespace(rank=0)
    settings = SimpleNamespace(data=SimpleNamespace(max_bad=0.5))
    bad = [BadImage.undecodable(3, "a.jpg", "damaged")]
    with Display(rank=0) as display:
        leave_out(bad, state, settings, RunFolder(tmp_path), mesh, display)  # type: ignore[arg-type]
    assert state.left_out == (3,)
    warned, named = capsys.readouterr().out.splitlines()
    assert warned == f"warning: {tmp_path}/bad_images.tsv cannot be written (Is a directory) and lacks what follows"
    assert named.startswith("warning: a.jpg is bad (damaged)")
    (tmp_path / "bad_images.tsv").rmdir()
    with Display(rank=0) as display:
        for sample in (4, 5):
            bad = [BadImage.undecodable(sample, f"{sample}.jpg", "damaged")]
            leave_out(bad, state, settings, RunFolder(tmp_path), mesh, display)  # type: ignore[arg-type]
    assert table_of(tmp_path) == [["file", "reason"], ["4.jpg", "damaged"], ["5.jpg", "damaged"]]


def test_it_gives_up_where_too_many_images_are_bad(few_images: Path, tmp_path: Path) -> None:
    bad = {int(FIRST[16 * batch]): "text" for batch in (2, 4, 6)}
    names = spoilt(few_images, tmp_path, bad)
    done = run("data.on_bad=skip", "data.max_bad=0.007", cwd=tmp_path)
    assert done.returncode == 2
    line = only_line(done)
    assert "3 of 320 training images are bad, more than data.max_bad=0.007 allows" in line
    assert "step 6 is saved" in line
    assert [row[0] for row in table_of(tmp_path / "run")] == ["file", *names]
    again = run("data.on_bad=skip", "data.max_bad=0.007", cwd=tmp_path)
    assert again.returncode == 2, "however often it is started"
    assert "3 of 320 training images are bad" in only_line(again)


def test_a_bad_image_of_those_that_make_the_mean_is_left_out_too(few_images: Path, tmp_path: Path) -> None:
    (name,) = spoilt(few_images, tmp_path, {int(FIRST[16 * 3]): "cut"})
    words = ("data.statistics_images=320", "trainer.max_steps=2")
    assert "is saved" not in only_line(run(*words, cwd=tmp_path))
    done = run(*words, "data.on_bad=skip", "data.max_bad=0.01", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"warning: {name} is bad (damaged: " in done.stdout


def test_too_many_bad_images_of_those_that_make_the_mean_end_it_at_once(few_images: Path, tmp_path: Path) -> None:
    names = spoilt(few_images, tmp_path, {int(sample): "text" for sample in FIRST if int(sample) not in IN_MEAN})
    done = run("data.statistics_images=320", "data.on_bad=skip", "data.max_bad=0.007", cwd=tmp_path)
    assert done.returncode == 2
    assert "3 of 320 training images are bad, more than data.max_bad=0.007 allows" in only_line(done)
    said = [line for line in done.stdout.splitlines() if line.startswith("warning: images/")]
    assert len(said) == 3
    named = [row[0] for row in table_of(tmp_path / "run")]
    assert len(named) == 4
    assert set(named) <= {"file", *names}


def test_a_validation_image_that_is_none_is_named_before_the_first_step(few_images: Path, tmp_path: Path) -> None:
    spoilt(few_images, tmp_path, {})
    bad = sorted((tmp_path / "images/val").rglob("*.jpg"))[5]
    bad.write_bytes(b"<html>")
    done = run("data.on_bad=skip", cwd=tmp_path)
    assert done.returncode == 2
    line = only_line(done)
    assert f"{bad.relative_to(tmp_path)} cannot be decoded (not an image in a known format)" in line
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_validation_image_that_is_cut_short_costs_no_epoch(few_images: Path, tmp_path: Path) -> None:
    spoilt(few_images, tmp_path, {})
    bad = sorted((tmp_path / "images/val").rglob("*.jpg"))[-1]
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size * 3 // 4])
    done = run(cwd=tmp_path)
    assert done.returncode == 2
    line = only_line(done)
    assert f"{bad.relative_to(tmp_path)} cannot be decoded (damaged: " in line
    assert line.endswith("; step 20 is saved, from which run.dir=run goes on")
    assert [record["kind"] for record in read_metrics(tmp_path / "run")].count("val") == 0
