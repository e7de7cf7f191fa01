"""What a person sees: in a terminal, and in a log."""

import os
import pty
import subprocess
import sys

import pytest

from alexnet_dist.tracking.display import Display

SHOWN = """
import time
from alexnet_dist.tracking.display import Display
with Display(rank={rank}) as display:
    for step in range(1, 6):
        display.show("training", step, 5, "epoch 0.10  loss 2.3026")
        time.sleep(0.15)
    display.say("warning: something")
    display.say("done")
"""
REFUSED = [sys.executable, "-m", "alexnet_dist.train", "optimizer.lr=-1"]


def _in_terminal(*command: str) -> str:
    """What a command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the terminal's last writer has gone
                break
            written += part
    os.close(ours)
    return written.decode()


def test_in_a_terminal_a_bar_moves_and_what_is_said_stays_in_colour() -> None:
    seen = _in_terminal(sys.executable, "-c", SHOWN.format(rank=0))
    assert "━" in seen
    assert "4/5" in seen
    assert "epoch 0.10 · loss 2.3026" in seen
    assert "\x1b[33mwarning: something" in seen
    assert "\x1b[2K" in seen, "the bar is wiped"


def test_in_a_log_it_is_plain_lines_and_no_more_than_one_every_few_seconds() -> None:
    done = subprocess.run([sys.executable, "-c", SHOWN.format(rank=0)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["training 1/5  epoch 0.10  loss 2.3026", "warning: something", "done"]


def test_the_time_left_waits_for_a_pace_follows_it_and_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    display = Display(rank=0, clock=lambda: now)

    def shown(done: int, after: float) -> str:
        nonlocal now
        now += after
        display.show("validation", done, 8)
        return capsys.readouterr().out.strip()

    assert shown(1, after=0) == "validation 1/8"
    assert shown(2, after=10) == "validation 2/8  1 min 00 s left"
    assert shown(8, after=60) == "validation 8/8"
    assert shown(1, after=1500) == "validation 1/8", "half an hour later another one begins"
    assert shown(2, after=6) == "validation 2/8  36 s left"
    assert shown(3, after=12) == "validation 3/8  45 s left", "the mean of both"


def test_other_ranks_are_quiet() -> None:
    assert not _in_terminal(sys.executable, "-c", SHOWN.format(rank=1))


def test_an_error_is_red_in_a_terminal() -> None:
    assert "\x1b[31merror: optimizer.lr" in _in_terminal(*REFUSED)
    assert "\x1b" not in subprocess.run(REFUSED, capture_output=True, text=True, check=False).stderr
