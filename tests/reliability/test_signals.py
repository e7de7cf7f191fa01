"""Signals end a run at a step boundary, with a checkpoint from which it goes on as if it had not been stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import train
from tests.reliability import kills
from tests.reliability.started import PLAIN, TORCHRUN, started


@pytest.mark.slow
def test_stopped_by_sigterm_and_ctrl_c_and_resumed_it_ends_with_the_same_bits(
    complete: Path, epoch_images: Path, tmp_path: Path
) -> None:
    words = (*kills.RUN, f"data.root={epoch_images}", kills.SIXTY)
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
    train(*words, "run.dir=run", cwd=tmp_path)
    kills.same_run(complete, run.run_dir)


@pytest.mark.parametrize(("to", "status"), [("its processes", 0), ("the launcher", 143)])
def test_a_signal_to_a_run_that_is_done_costs_it_no_report(to: str, status: int, epoch_images: Path, tmp_path: Path) -> None:
    words = (*kills.RUN, f"data.root={epoch_images}", "trainer.max_steps=5", "run.report=true")
    with started(PLAIN, *words, cwd=tmp_path) as run:
        run.wait_until((run.run_dir / "stopped").exists)
        assert not (run.run_dir / "report.html").exists()
        for process in run.ranks() if to == "its processes" else [run.process]:
            process.send_signal(signal.SIGTERM)
        assert run.end(100) == status, run.said()
    assert run.said().splitlines()[-1].startswith("done: ")
    assert (run.run_dir / "report.html").is_file()


def test_a_signal_before_the_first_step_ends_a_run_that_can_go_on(epoch_images: Path, tmp_path: Path) -> None:
    with started(PLAIN, *kills.RUN, f"data.root={epoch_images}", kills.SIXTY, cwd=tmp_path) as run:
        run.wait_until(lambda: "run folder run" in run.said())
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143
        assert "stopped by SIGTERM before the first step of this start" in run.said().splitlines()
        assert (run.run_dir / "stopped").read_text() == "signal\n"
        assert run.last_step() == 0


def test_ctrl_c_while_processes_are_started_ends_all_of_them_without_a_word_too_many(epoch_images: Path, tmp_path: Path) -> None:
    with started(PLAIN, *kills.RUN, f"data.root={epoch_images}", "parallel.processes=8", cwd=tmp_path) as run:
        run.wait_until(run.ranks)
        run.press_ctrl_c()
        assert run.end(60) == 130
        (said,) = (line for line in run.said().splitlines() if "SIGINT" in line)
        assert said == "ended by SIGINT" or said.startswith("stopped by SIGINT before the first step")
        assert "Traceback" not in run.said()
        assert run.last_step() == 0


def test_when_the_processes_have_ended_signals_are_heard_as_before(tmp_path: Path) -> None:
    program = """
import signal
from alexnet_dist.launching.processes import HANDED_ON, start_processes

def note(*heard):
    print("noted")

signal.signal(signal.SIGUSR2, note)
before = [signal.getsignal(signum) for signum in HANDED_ON]
assert start_processes(print, 1, 0, "in a process of its own") == 0
assert [signal.getsignal(signum) for signum in HANDED_ON] == before
signal.raise_signal(signal.SIGUSR2)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("in a process of its own\nnoted\n", 0), done.stderr


def test_a_second_ctrl_c_leaves_at_once(epoch_images: Path, tmp_path: Path) -> None:
    with started(PLAIN, *kills.RUN, f"data.root={epoch_images}", "trainer.max_steps=5000", cwd=tmp_path) as run:
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


def test_when_its_terminal_closes_a_run_is_saved(epoch_images: Path, tmp_path: Path) -> None:
    ours, terminal = os.openpty()
    words = (*kills.RUN, f"data.root={epoch_images}", "trainer.max_steps=5000")
    with started(PLAIN, *words, cwd=tmp_path, terminal=terminal) as run:
        os.close(terminal)
        threading.Thread(target=_read_all, args=(ours,), daemon=True).start()  # or the terminal's buffer fills
        run.wait_for_step(3)
        os.close(ours)
        assert run.end() == 128 + signal.SIGHUP
    assert (run.run_dir / "stopped").read_text() == "signal\n"
    assert (run.run_dir / "checkpoints" / f"step-{run.last_step():08d}").is_dir()


def test_under_nohup_a_run_outlives_its_terminal(epoch_images: Path, tmp_path: Path) -> None:
    with started(("nohup", *PLAIN), *kills.RUN, f"data.root={epoch_images}", "trainer.max_steps=5000", cwd=tmp_path) as run:
        run.wait_for_step(3)
        os.killpg(run.process.pid, signal.SIGHUP)
        for rank in run.ranks():
            rank.send_signal(signal.SIGHUP)
        at = run.last_step()
        run.wait_for_step(at + 5)
        os.killpg(run.process.pid, signal.SIGUSR1)  # as SLURM sends it to all of a job
        assert run.end() == 128 + signal.SIGUSR1
        assert run.said().splitlines()[-1].startswith("stopped by SIGUSR1 at step ")


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_reader_that_leaves_costs_nothing_but_the_output(interrupted: bool, epoch_images: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    steps = "trainer.max_steps=5000" if interrupted else "trainer.max_steps=5"
    with started(PLAIN, *kills.RUN, f"data.root={epoch_images}", steps, cwd=tmp_path, stdout=writer) as run:
        os.close(writer)
        assert os.read(reader, 10), "the first line"
        os.close(reader)
        if interrupted:
            run.wait_for_step(3)
            run.press_ctrl_c()
        assert run.end() == (130 if interrupted else 0), run.said()
    assert run.said() == "", "nothing on standard error"
    assert (run.run_dir / "stopped").read_text() == ("signal\n" if interrupted else "done\n")


def test_a_command_whose_reader_has_left_ends_well(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "alexnet_dist.model", "model=tiny"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_an_encoding_has_no_letter_for_is_written_otherwise(tmp_path: Path) -> None:
    program = "from alexnet_dist.errors import outlive_streams\noutlive_streams()\nprint('Käfer 金')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Käfer \\u91d1\n".encode("latin-1")), done.stderr


def _read_all(file: int) -> None:
    with suppress(OSError):
        while os.read(file, 65536):
            pass


@pytest.mark.slow
def test_under_torchrun_a_signal_saves_and_leaves_its_word(epoch_images: Path, tmp_path: Path) -> None:
    with started(TORCHRUN, *kills.RUN, f"data.root={epoch_images}", "trainer.max_steps=5000", cwd=tmp_path) as run:
        run.wait_for_step(3)
        run.process.send_signal(signal.SIGUSR1)
        assert run.end() != 0
        assert f"stopped by SIGUSR1 at step {run.last_step()}" in run.said()
        assert (run.run_dir / "stopped").read_text() == "signal\n"
        assert (run.run_dir / "checkpoints" / f"step-{run.last_step():08d}").is_dir()
