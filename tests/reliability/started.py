"""A training that runs while the test does something to it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from alexnet_dist.training.checkpoint import list_checkpoints
from tests.commands import LAUNCHED, assert_none_marked_left
from tests.forked import CONTEXT, assert_none_left, run_here

PLAIN = (sys.executable, "-m", "alexnet_dist.train")
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1", "--shutdown-timeout", "120", "-m", "alexnet_dist.train"),
)


class Forked:
    """What is used here of subprocess.Popen, of a training whose launcher is forked from a process that has imported."""

    def __init__(self, words: tuple[str, ...], cwd: Path, environment: dict[str, str], log: Path) -> None:
        self._process = CONTEXT.Process(target=_enter, args=(words, cwd, environment, log))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("train", timeout or 0)
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _enter(words: tuple[str, ...], cwd: Path, environment: dict[str, str], log: Path) -> None:
    os.setpgid(0, 0)
    _heed_all()
    run_here("train", words, cwd, environment, [log, log])


def _heed_all() -> None:
    """A shell starts background jobs with SIGINT ignored, nohup with SIGHUP, and that would be inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@dataclass
class Started:
    """A command under way, its log and its run folder."""

    process: subprocess.Popen[bytes] | Forked
    log: Path
    run_dir: Path
    marker: str

    def said(self) -> str:
        return self.log.read_text()

    def last_step(self) -> int:
        """The last step that metrics.jsonl tells of, 0 before the first."""
        metrics = self.run_dir / "metrics.jsonl"
        lines = metrics.read_bytes().split(b"\n")[:-1] if metrics.exists() else []
        return max((json.loads(line)["step"] for line in lines), default=0)

    def ranks(self) -> list[psutil.Process]:
        """The processes that train, in the order of their ranks: each leads a session of its own."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return sorted((child for child in children if _leads_a_session(child.pid)), key=lambda child: child.pid)

    def wait_until(self, happened: Callable[[], object], timeout: float = 300) -> None:
        limit = time.monotonic() + timeout
        while not happened():
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said()}"
            assert time.monotonic() < limit, self.said()
            time.sleep(0.05)

    def wait_for_step(self, step: int) -> None:
        self.wait_until(lambda: self.last_step() >= step)

    def wait_for_checkpoint(self) -> None:
        """Until one is complete: it is written beside the training, and a slow disk takes longer for it than some steps do."""
        self.wait_until(lambda: list_checkpoints(self.run_dir))

    def press_ctrl_c(self) -> None:
        """As a terminal does: SIGINT to the whole foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, timeout: float = 300) -> int:
        """Wait for the end and return its status; no process may be left."""
        status = self.process.wait(timeout)
        if isinstance(self.process, Forked):  # whose environment is not to be seen from outside
            assert_none_left(lambda process: Path(process.cwd()).is_relative_to(self.log.parent))
        else:
            assert_none_marked_left(self.marker)
        return status


@contextmanager
def started(
    command: tuple[str, ...], *words: str, cwd: Path, stdout: int | None = None, terminal: int | None = None
) -> Iterator[Started]:
    """`command` with the words and run.dir=run, without W&B, in a process group of its own; ended when the test is.

    Its output goes to a log, or its standard output to another file, or all to a terminal that becomes its own. The plain form
    with a log is forked, which saves seconds of imports.
    """
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment |= {"ALEXNET_DIST_TEST": (marker := f"{cwd}-{time.monotonic_ns()}"), "OMP_NUM_THREADS": "1"}
    log = cwd / "log"

    def preexec() -> None:
        _heed_all()
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    words = ("tracking=none", "run.report=false", "run.dir=run", *words)
    process: subprocess.Popen[bytes] | Forked
    with log.open("ab") as output:
        if command == PLAIN and stdout is None and terminal is None:
            process = Forked(words, cwd, environment, log)
        else:
            process = subprocess.Popen(
                [*command, *words],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=next(file for file in (terminal, stdout, output) if file is not None),
                stderr=output if terminal is None else terminal,
                process_group=0 if terminal is None else None,
                start_new_session=terminal is not None,
                preexec_fn=preexec,
            )
    run = Started(process, log, cwd / "run", marker)
    try:
        yield run
    finally:
        for left in [*run.ranks(), process]:
            left.kill()
        process.wait()


def _leads_a_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
