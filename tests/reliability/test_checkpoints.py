"""A checkpoint is complete or absent, a damaged one is passed over, and a disk that takes none costs a warning."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_dist.checks import check_settings
from alexnet_dist.data.views import Preprocess
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.checkpoint import list_checkpoints
from alexnet_dist.training.meter import ErrorCount
from alexnet_dist.training.saving import Checkpoints
from alexnet_dist.training.state import SavedState, TrainingState
from alexnet_dist.training.update import MomentumSGD, Schedule
from tests.commands import run_command, train
from tests.forked import run_forked
from tests.reliability import kills
from tests.reliability.started import PLAIN, started


def test_damaged_checkpoints_are_passed_over_and_set_aside(complete: Path, epoch_images: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", complete, tmp_path / "run"], check=True)
    checkpoints = tmp_path / "run" / "checkpoints"
    flipped = checkpoints / "step-00000060" / "__1_0.distcp"
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    truncated = checkpoints / "step-00000050" / "state.json"
    truncated.write_bytes(truncated.read_bytes()[:100])
    (checkpoints / "damaged-step-00000060" / "of an earlier time").mkdir(parents=True)
    # A kill between the two names of a checkpoint that replaces one of the same step.
    (checkpoints / "step-00000040").rename(checkpoints / ".step-00000040.replaced")
    evaluated = run_forked("evaluate", f"checkpoint={flipped.parent}", cwd=tmp_path)
    assert evaluated.returncode == 2
    assert "is damaged (__1_0.distcp is not as it was written)" in evaluated.stderr
    done = train(*kills.RUN, f"data.root={epoch_images}", kills.SIXTY, "checkpoint.keep=5", "run.dir=run", cwd=tmp_path)
    for damaged, file in (("step-00000060", "__1_0.distcp"), ("step-00000050", "state.json")):
        assert f"warning: run/checkpoints/{damaged} is damaged ({file} is not as it was written)" in done.stdout
        assert (checkpoints / f"damaged-{damaged}" / file).is_file()
    assert "resumed from run/checkpoints/step-00000040: step 40" in done.stdout
    kills.same_run(complete, tmp_path / "run")


@pytest.mark.slow
def test_a_kill_between_a_checkpoint_and_its_pointers_is_made_good(complete: Path, epoch_images: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", complete, tmp_path / "run"], check=True)
    checkpoints = tmp_path / "run" / "checkpoints"
    best = (checkpoints / "best").read_text()
    wrong = next(name for name in ("step-00000010\n", "step-00000020\n") if name != best)
    for pointer in ("latest", "best"):
        (checkpoints / pointer).write_text(wrong)
    train(*kills.RUN, f"data.root={epoch_images}", kills.SIXTY, "run.dir=run", cwd=tmp_path)
    assert (checkpoints / "best").read_text() == best
    assert (checkpoints / "latest").read_text() == "step-00000060\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB; a checkpoint of model=tiny takes 2.5."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_run_whose_last_step_cannot_be_saved_is_not_done(small_disk: Path, epoch_images: Path, tmp_path: Path) -> None:
    words = ("tracking=none", "run.report=false", *kills.RUN, f"data.root={epoch_images}", f"run.dir={small_disk}/run")
    done = run_command("train", *words, "trainer.max_steps=12", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("warning: no checkpoint of step 12 could be written") == 2, "it was tried again"
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: the last step, 12, could not be saved, so the run is not done"), said
    assert said.endswith(f"with run.dir={small_disk}/run it goes on from step 10")
    assert "done:" not in done.stdout
    assert not (small_disk / "run" / "stopped").exists()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    again = train(*words, "trainer.max_steps=12", cwd=tmp_path)
    assert "step-00000010: step 10" in again.stdout
    assert (small_disk / "run" / "stopped").read_text() == "done\n"


@contextmanager
def _saving(run_dir: Path, said: list[str], after_a_word: Callable[[], object], **options: int) -> Iterator[Checkpoints]:
    """Checkpoints of one process at step 1; what they say goes into `said`, and then `after_a_word` is called."""
    config = compose("train", ["model=tiny"])
    settings = check_settings(config)
    table, cpu = settings.table(), torch.device("cpu")

    class Listened(Display):
        def say(self, text: str) -> None:
            said.append(text)
            after_a_word()

    with join_mesh(table.towers, cpu, timeout=60) as mesh:
        net = Net(table)
        net.initialise(0)
        optimizer = MomentumSGD(net, settings.optimizer)
        preprocess = Preprocess(settings.data.size, table.input_size, settings.data.mean)
        state = TrainingState(net, optimizer, Schedule(settings.schedule, 0.1), preprocess, ErrorCount(mesh), images_per_epoch=64)
        state.advance(32)
        saved = state.saved(SavedState(table.parameter_shapes(), config, ["a"], ["a"], 64))
        wanted = replace(settings.checkpoint, **options)
        with Checkpoints(run_dir, wanted, mesh, Listened(rank=0), state, lambda: saved) as checkpoints:
            yield checkpoints


def test_the_last_save_succeeds_when_it_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way until a warning is given")
    said: list[str] = []
    with _saving(tmp_path, said, (tmp_path / "checkpoints").unlink) as checkpoints:
        checkpoints.at_boundary(last_step=1, time_is_up=False, validated=False)
        assert checkpoints.finish()
    assert len(said) == 1
    assert SavedState.read(tmp_path / "checkpoints" / "step-00000001").step == 1


def test_an_old_checkpoint_that_cannot_be_deleted_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000000").write_text("a file, which is not deleted as a folder is")
    said: list[str] = []
    with _saving(tmp_path, said, lambda: None, keep=1) as checkpoints:
        checkpoints.at_boundary(last_step=1, time_is_up=False, validated=False)
        assert checkpoints.finish()
    assert said == [f"warning: an old checkpoint in {tmp_path}/checkpoints cannot be deleted (Not a directory)"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001"]


@pytest.mark.slow
def test_a_full_disk_costs_a_warning_and_not_the_run(small_disk: Path, complete: Path, epoch_images: Path) -> None:
    words = (*kills.RUN, f"data.root={epoch_images}")
    checkpoints = small_disk / "run" / "checkpoints"
    with started(PLAIN, *words, "trainer.max_steps=5000", cwd=small_disk) as run:  # its log is on that disk too
        run.wait_until(lambda: "warning: no checkpoint of step 30 could be written to run/checkpoints (No space" in run.said())
        subprocess.run(["dd", "if=/dev/zero", f"of={small_disk}/rest", "bs=4k"], capture_output=True, check=False)
        full = run.last_step()
        time.sleep(2)  # it goes on, though nothing can be written, nor said
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143
        assert full <= run.last_step() < full + 200, "the disk was not full"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best", "latest", "step-00000010"]
    assert not (run.run_dir / "stopped").exists()
    with started(PLAIN, *words, kills.SIXTY, cwd=small_disk) as run:  # it begins on the full disk as well, and cannot be saved
        run.wait_until(lambda: len(run.ranks()) == 2)
        assert run.end() == 1
    assert not (run.run_dir / "stopped").exists()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    done = train(*words, kills.SIXTY, "run.dir=run", cwd=small_disk)
    assert "step-00000010: step 10" in done.stdout
    kills.same_run(complete, run.run_dir)


@pytest.mark.slow
def test_by_time_and_where_the_folder_takes_none(epoch_images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file in the way")
    time_only = ("checkpoint.every=null", "checkpoint.minutes=0.0001", "trainer.validate_every=1000", "trainer.max_steps=20")
    words = (*kills.RUN, f"data.root={epoch_images}", *time_only, "run.dir=run")
    done = run_command("train", "tracking=none", "run.report=false", *words, cwd=tmp_path)
    assert done.returncode == 1, "its last step is not saved"
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: no checkpoint of step")]
    assert len(warnings) > 3
    assert (tmp_path / "run" / "checkpoints").read_text() == "a file in the way"
    (tmp_path / "run" / "checkpoints").unlink()
    train(*words, "checkpoint.keep=20", cwd=tmp_path)
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) > 3
