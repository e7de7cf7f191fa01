"""A checkpoint is complete or absent, a damaged one is passed over, and a disk that takes none costs a warning."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import train
from tests.forked import run_forked
from tests.reliability import kills
from tests.reliability.started import PLAIN, started


def test_damaged_checkpoints_are_passed_over_and_set_aside(complete: Path, few_images: Path, tmp_path: Path) -> None:
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
    done = train(*kills.RUN, f"data.root={few_images}", kills.SIXTY, "checkpoint.keep=5", "run.dir=run", cwd=tmp_path)
    for damaged, file in (("step-00000060", "__1_0.distcp"), ("step-00000050", "state.json")):
        assert f"warning: run/checkpoints/{damaged} is damaged ({file} is not as it was written)" in done.stdout
        assert (checkpoints / f"damaged-{damaged}" / file).is_file()
    assert "resumed from run/checkpoints/step-00000040: step 40" in done.stdout
    kills.same_run(complete, tmp_path / "run")


@pytest.mark.slow
def test_a_kill_between_a_checkpoint_and_its_pointers_is_made_good(complete: Path, few_images: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", complete, tmp_path / "run"], check=True)
    checkpoints = tmp_path / "run" / "checkpoints"
    best = (checkpoints / "best").read_text()
    wrong = next(name for name in ("step-00000010\n", "step-00000020\n") if name != best)
    for pointer in ("latest", "best"):
        (checkpoints / pointer).write_text(wrong)
    train(*kills.RUN, f"data.root={few_images}", kills.SIXTY, "run.dir=run", cwd=tmp_path)
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


@pytest.mark.slow
def test_a_full_disk_costs_a_warning_and_not_the_run(small_disk: Path, complete: Path, few_images: Path) -> None:
    words = (*kills.RUN, f"data.root={few_images}")
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
    with started(PLAIN, *words, kills.SIXTY, cwd=small_disk) as run:  # it begins on the full disk as well
        run.wait_until(lambda: len(run.ranks()) == 2)
        assert run.end() == 0
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    with started(PLAIN, *words, kills.SIXTY, cwd=small_disk) as run:
        assert run.end() == 0, run.said()
    assert "step-00000010: step 10" in run.said()
    kills.same_run(complete, run.run_dir)


@pytest.mark.slow
def test_by_time_and_where_the_folder_takes_none(few_images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file in the way")
    time_only = ("checkpoint.every=null", "checkpoint.minutes=0.0001", "trainer.validate_every=1000", "trainer.max_steps=20")
    words = (*kills.RUN, f"data.root={few_images}", *time_only, "run.dir=run")
    done = train(*words, cwd=tmp_path)
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: no checkpoint of step")]
    assert len(warnings) > 3
    assert (tmp_path / "run" / "checkpoints").read_text() == "a file in the way"
    (tmp_path / "run" / "checkpoints").unlink()
    train(*words, "checkpoint.keep=20", cwd=tmp_path)
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) > 3
