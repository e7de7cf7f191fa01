"""Signals end a run at a step boundary, with a checkpoint from which it goes on as if it had not been stopped."""

import json
import signal
import time
from pathlib import Path

import pytest

from tests.reliability import kills
from tests.reliability.started import PLAIN, TORCHRUN, started


@pytest.mark.slow
def test_stopped_by_sigterm_and_ctrl_c_and_resumed_it_ends_with_the_same_bits(
    complete: Path, few_images: Path, tmp_path: Path
) -> None:
    words = (*kills.RUN, f"data.root={few_images}", kills.SIXTY)
    assert (complete / "stopped").read_text() == "done\n"
    for step, status in ((13, 143), (34, 130)):
        with started(PLAIN, *words, cwd=tmp_path) as run:
            run.wait_for_step(step)
            if status == 130:
                run.press_ctrl_c()
            else:
                run.process.send_signal(signal.SIGTERM)
            assert run.end() == status
            last = run.said().splitlines()[-1]
            at = run.last_step()
            assert last.startswith(f"stopped by {signal.Signals(status - 128).name} at step {at}; "), run.said()
            assert (run.run_dir / "stopped").read_text() == "signal\n"
            newest = run.run_dir / "checkpoints" / f"step-{at:08d}" / "state.json"
            assert json.loads(newest.read_text())["step"] == at
    with started(PLAIN, *words, cwd=tmp_path) as run:
        assert run.end() == 0
    kills.same_run(complete, run.run_dir)


def test_a_signal_before_the_first_step_ends_a_run_that_can_go_on(few_images: Path, tmp_path: Path) -> None:
    with started(PLAIN, *kills.RUN, f"data.root={few_images}", kills.SIXTY, cwd=tmp_path) as run:
        run.wait_until(lambda: "run folder run" in run.said())
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143
        assert "stopped by SIGTERM before the first step of this start" in run.said().splitlines()
        assert (run.run_dir / "stopped").read_text() == "signal\n"
        assert run.last_step() == 0


def test_a_second_ctrl_c_leaves_at_once(few_images: Path, tmp_path: Path) -> None:
    with started(PLAIN, *kills.RUN, f"data.root={few_images}", "trainer.max_steps=5000", cwd=tmp_path) as run:
        run.wait_for_step(3)
        first, held_up = run.ranks()
        held_up.send_signal(signal.SIGSTOP)  # so that the first Ctrl-C cannot be agreed on
        run.press_ctrl_c()
        time.sleep(0.5)
        assert first.is_running()
        run.press_ctrl_c()
        first.wait(60)  # else it would wait for parallel.timeout, which is 120 seconds
        held_up.send_signal(signal.SIGCONT)
        assert run.end() == 130
        assert run.said().splitlines()[-1] == "ended by SIGINT"
        assert not (run.run_dir / "stopped").exists()


@pytest.mark.slow
def test_under_torchrun_a_signal_saves_and_leaves_its_word(few_images: Path, tmp_path: Path) -> None:
    with started(TORCHRUN, *kills.RUN, f"data.root={few_images}", "trainer.max_steps=5000", cwd=tmp_path) as run:
        run.wait_for_step(3)
        run.process.send_signal(signal.SIGUSR1)
        assert run.end() != 0
        assert f"stopped by SIGUSR1 at step {run.last_step()}" in run.said()
        assert (run.run_dir / "stopped").read_text() == "signal\n"
        assert (run.run_dir / "checkpoints" / f"step-{run.last_step():08d}").is_dir()
