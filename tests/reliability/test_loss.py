"""When a process is lost the others say which, end, and are started again; the run ends as the undisturbed run does."""

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.reliability import kills
from tests.reliability.started import PLAIN, TORCHRUN, started


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_twice_a_run_ends_with_the_same_bits(processes: int, drawn_images: Path, tmp_path: Path) -> None:
    words = ("trainer.max_steps=60",)
    expected = kills.undisturbed(drawn_images, processes, tmp_path / "undisturbed", *words)
    run_dir, seconds = kills.with_kills(drawn_images, processes, 2, 1, tmp_path / "killed", *words)
    assert max(seconds) < 60
    kills.same_run(expected, run_dir)
    assert sorted(path.name for path in run_dir.iterdir() if path.name[0] != ".") == sorted(
        ["checkpoints", "config.json", "metrics.jsonl", "stopped", "whole.pt"]
    )
    assert not list((run_dir / "checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_killed_twenty_five_times_runs_end_with_the_same_bits(processes: int, drawn_images: Path, tmp_path: Path) -> None:
    expected = kills.undisturbed(drawn_images, processes, tmp_path / "undisturbed")
    for number in range(5):
        run_dir, _ = kills.with_kills(drawn_images, processes, 5, number, tmp_path / str(number))
        kills.same_run(expected, run_dir)


def test_a_process_that_is_stopped_is_found_named_and_ended(drawn_images: Path, tmp_path: Path) -> None:
    words = (*kills.RUN, f"data.root={drawn_images}", "parallel.timeout=4", "parallel.max_restarts=0")
    with started(PLAIN, *words, cwd=tmp_path) as run:
        run.wait_for_step(12)
        stopped = run.ranks()[1]
        stopped.send_signal(signal.SIGSTOP)
        assert run.end() == 1
        assert "error: rank 1 has not answered for 4 seconds (parallel.timeout); rank 0 stood at step" in run.said()
        assert not psutil.pid_exists(stopped.pid)


@pytest.mark.slow
def test_under_torchrun_the_run_goes_on_too(drawn_images: Path, tmp_path: Path) -> None:
    torchrun = tuple(word for word in TORCHRUN if word != "--standalone")
    command = (*torchrun[:3], "--standalone", "--max-restarts", "2", *torchrun[3:])
    with started(command, *kills.RUN, f"data.root={drawn_images}", "trainer.max_steps=30", cwd=tmp_path) as run:
        run.wait_for_step(12)
        killed = time.monotonic()
        run.ranks()[0].kill()
        run.wait_until(lambda: "error: rank 0 was lost; rank 1 stood at step" in run.said())
        assert time.monotonic() - killed < 5
        assert run.end() == 0
        assert "resumed from run/checkpoints/step-00000010: step 10" in run.said()
