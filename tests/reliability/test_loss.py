"""When a process is lost the others say which, end, and are started again; the run ends as the undisturbed run does."""

import os
import pickle
import re
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from alexnet_dist.errors import LOST
from tests.commands import LAUNCHED
from tests.forked import ranks, still_running
from tests.reliability import kills
from tests.reliability.started import PLAIN, TORCHRUN, Started, started


def test_killed_twice_a_run_ends_with_the_same_bits(complete: Path, epoch_images: Path, tmp_path: Path) -> None:
    run_dir, _ = kills.with_kills(epoch_images, 2, 2, 1, tmp_path / "killed", kills.SIXTY)
    kills.same_run(complete, run_dir)
    assert sorted(path.name for path in run_dir.iterdir() if path.name[0] != ".") == sorted(
        ["checkpoints", "config.json", "metrics.jsonl", "starts.jsonl", "stopped", "timeline.json", "whole.pt"]
    )
    assert not list((run_dir / "checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "count"), [(2, 10), (4, 4)])
def test_killed_many_times_a_run_ends_with_the_same_bits(processes: int, count: int, epoch_images: Path, tmp_path: Path) -> None:
    """With the two above they are 16 kills; `python -m tests.reliability.kills` does fifty."""
    steps = f"trainer.max_steps={kills.steps_for(count)}"
    expected = kills.undisturbed(epoch_images, processes, tmp_path / "undisturbed", steps)
    run_dir, _ = kills.with_kills(epoch_images, processes, count, 0, tmp_path / "killed", steps)
    kills.same_run(expected, run_dir)


def test_a_process_that_is_stopped_is_found_named_and_ended(
    epoch_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "100")  # as it is with NCCL
    words = (*kills.RUN, f"data.root={epoch_images}", "parallel.timeout=4", "parallel.max_restarts=0")
    with started(PLAIN, *words, cwd=tmp_path) as run:
        run.wait_for_step(12)
        stopped = run.ranks()[1]
        stopped.send_signal(signal.SIGSTOP)
        assert run.end() == 1
        assert "error: rank 1 has not answered for 4 seconds (parallel.timeout); rank 0 stood at step" in run.said()
        assert not psutil.pid_exists(stopped.pid)
    recorded = pickle.loads((run.run_dir / "flight-recorder" / "rank_0").read_bytes())
    assert "gloo:all_reduce" in {entry["profiling_name"] for entry in recorded["entries"]}


@pytest.mark.slow
def test_where_the_process_is_stopped_by_which_all_met_the_others_end(epoch_images: Path, tmp_path: Path) -> None:
    words = (*kills.RUN, f"data.root={epoch_images}", "parallel.timeout=6", "run.dir=run", "tracking=none")
    inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    log = tmp_path / "log"
    with log.open("ab") as output, ExitStack() as at_end:
        first, other = (
            subprocess.Popen([*PLAIN, *words], cwd=tmp_path, env={**inherited, **own}, stdout=output, stderr=output)
            for own in ranks(2)
        )
        for process in (first, other):
            at_end.callback(process.wait)
            at_end.callback(process.kill)
        run = Started(other, log, tmp_path / "run", "")
        run.wait_for_step(12)
        first.send_signal(signal.SIGSTOP)
        assert other.wait(100) == LOST, run.said()
    assert "error: the process through which all met (rank 0 or the launcher) has not answered for 6 seconds" in run.said()


@pytest.mark.slow
def test_a_run_that_is_stopped_as_a_whole_goes_on_when_it_is_continued(epoch_images: Path, tmp_path: Path) -> None:
    words = (*kills.RUN, f"data.root={epoch_images}", "parallel.timeout=6", "parallel.max_restarts=0", "trainer.max_steps=5000")
    with started(PLAIN, *words, cwd=tmp_path) as run:
        run.wait_for_step(12)
        ranks = run.ranks()
        assert len(ranks) == 2
        for stop in (signal.SIGSTOP, signal.SIGCONT):
            for rank in ranks:
                rank.send_signal(stop)
            time.sleep(9 * (stop == signal.SIGSTOP))
        run.wait_for_step(run.last_step() + 20)
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143, run.said()
    assert "error: " not in run.said()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_when_the_launcher_is_killed_its_processes_end(processes: int, epoch_images: Path, tmp_path: Path) -> None:
    words = (*kills.RUN, f"data.root={epoch_images}", f"parallel.processes={processes}", "trainer.max_steps=5000")
    with started(PLAIN, *words, cwd=tmp_path) as run:
        run.wait_for_step(3)
        ranks = run.ranks()
        assert len(ranks) == processes
        run.process.kill()
        assert not still_running(ranks, seconds=100)
        assert run.end() == -signal.SIGKILL
        # Where all met at the launcher the processes cannot agree on who says it.
        lines = [line for line in run.said().splitlines() if line.startswith("error: ")]
        assert lines
        assert all(line.startswith("error: the process ") and " was lost" in line for line in lines), lines


@pytest.mark.slow
def test_under_torchrun_the_run_goes_on_too(complete: Path, epoch_images: Path, tmp_path: Path) -> None:
    torchrun = tuple(word for word in TORCHRUN if word != "--standalone")
    command = (*torchrun[:3], "--standalone", "--max-restarts", "2", *torchrun[3:])
    with started(command, *kills.RUN, f"data.root={epoch_images}", kills.SIXTY, cwd=tmp_path) as run:
        run.wait_for_checkpoint()
        run.ranks()[0].kill()
        # Sooner than by parallel.timeout, which is 120 seconds.
        run.wait_until(lambda: "error: rank 0 was lost; rank 1 stood at step" in run.said(), timeout=100)
        assert run.end() == 0
    assert re.search(r"resumed from run/checkpoints/step-000000[1-5]0: step [1-5]0", run.said())
    kills.same_run(complete, run.run_dir)
