"""A checkpoint is complete or absent, a damaged one is passed over, and a disk that takes none costs a warning."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run_command, train
from tests.reliability import kills
from tests.reliability.started import PLAIN, started

STEPS = "trainer.max_steps=30"


@pytest.fixture(scope="module")
def complete(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 steps with checkpoints of steps 10, 20 and 30."""
    folder = tmp_path_factory.mktemp("complete")
    with started(PLAIN, *kills.RUN, f"data.root={drawn_images}", STEPS, "checkpoint.keep=5", cwd=folder) as run:
        assert run.end() == 0, run.said()
    return run.run_dir


def test_damaged_checkpoints_are_passed_over_and_set_aside(complete: Path, drawn_images: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", complete, tmp_path / "run"], check=True)
    checkpoints = tmp_path / "run" / "checkpoints"
    flipped = checkpoints / "step-00000030" / "__1_0.distcp"
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    truncated = checkpoints / "step-00000020" / "state.json"
    truncated.write_bytes(truncated.read_bytes()[:100])
    evaluated = run_command("evaluate", f"checkpoint={flipped.parent}", cwd=tmp_path)
    assert evaluated.returncode == 2
    assert "is damaged (__1_0.distcp is not as it was written)" in evaluated.stderr
    done = train(*kills.RUN, f"data.root={drawn_images}", STEPS, "checkpoint.keep=5", "run.dir=run", cwd=tmp_path)
    for damaged, file in (("step-00000030", "__1_0.distcp"), ("step-00000020", "state.json")):
        assert f"warning: run/checkpoints/{damaged} is damaged ({file} is not as it was written)" in done.stdout
        assert (checkpoints / f"damaged-{damaged}").is_dir()
    assert "resumed from run/checkpoints/step-00000010: step 10" in done.stdout
    kills.same_run(complete, tmp_path / "run")


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
def test_a_full_disk_costs_a_warning_and_not_the_run(
    small_disk: Path, complete: Path, drawn_images: Path, tmp_path: Path
) -> None:
    with started(PLAIN, *kills.RUN, f"data.root={drawn_images}", STEPS, f"run.dir={small_disk}/run", cwd=tmp_path) as run:
        assert run.end() == 0, run.said()
    checkpoints = small_disk / "run" / "checkpoints"
    assert f"warning: no checkpoint of step 20 could be written to {checkpoints} (No space left on device)" in run.said()
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step-00000010"]
    assert [json.loads(line)["step"] for line in (small_disk / "run" / "metrics.jsonl").open()] == [*range(1, 31), 30]
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    with started(PLAIN, *kills.RUN, f"data.root={drawn_images}", STEPS, f"run.dir={small_disk}/run", cwd=tmp_path) as run:
        assert run.end() == 0, run.said()
    assert "step-00000010: step 10" in run.said()
    kills.same_run(complete, small_disk / "run")


@pytest.mark.slow
def test_by_time_and_where_the_folder_takes_none(drawn_images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file in the way")
    words = (*kills.RUN, f"data.root={drawn_images}", STEPS, "run.dir=run", "checkpoint.every=null", "checkpoint.minutes=0.0001")
    done = train(*words, cwd=tmp_path)
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: no checkpoint of step")]
    assert len(warnings) > 3
    assert (tmp_path / "run" / "checkpoints").read_text() == "a file in the way"
    (tmp_path / "run" / "checkpoints").unlink()
    train(*words, "checkpoint.keep=20", cwd=tmp_path)
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) > 3
