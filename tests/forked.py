"""Run the package's commands in processes forked from one that has imported torch already, which saves seconds for each."""

import multiprocessing
import os
import runpy
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import psutil

from tests.ports import free_ports

CONTEXT = multiprocessing.get_context("forkserver")


def run_forked(
    module: str, *words: str, cwd: Path, environments: Sequence[Mapping[str, str]] = ({},), timeout: float = 300
) -> CompletedProcess[str]:
    """What `python -m alexnet_dist.<module> <words>` does and says, once for each of the environments, all at the same time.

    The status is the first that is not 0. Nothing else runs in `cwd`, where no process may be left.
    """
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("stdout", "stderr")]
        started = [
            CONTEXT.Process(target=run_here, args=(module, words, cwd, {**os.environ, **own}, said)) for own in environments
        ]
        for process in started:
            process.start()
        deadline = time.monotonic() + timeout
        for process in started:
            process.join(max(0, deadline - time.monotonic()))
        late = [process for process in started if process.exitcode is None]
        for process in late:
            process.kill()
        texts = [file.read_text() for file in said]
        assert not late, texts
        assert_none_left(lambda process: Path(process.cwd()).is_relative_to(cwd))
        status = next((process.exitcode for process in started if process.exitcode), 0)
        return CompletedProcess([module, *words], status, *texts)


def assert_none_left(is_one: Callable[[psutil.Process], bool]) -> None:
    """Fails where such a process runs ten seconds from now."""
    left = still_running([process for process in psutil.process_iter() if _is(is_one, process)], seconds=10)
    assert not left, f"processes left behind: {left}"


def still_running(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that have not ended by then."""
    deadline = time.monotonic() + seconds
    while (left := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _runs(process: psutil.Process) -> bool:
    """A zombie has ended; whoever adopted it, who may take a second or two, has not asked yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is(is_one: Callable[[psutil.Process], bool], process: psutil.Process) -> bool:
    try:
        return is_one(process)
    except (psutil.Error, OSError):
        return False


def ranks(processes: int) -> list[dict[str, str]]:
    """The environments of so many processes on this machine, as torchrun has them."""
    port = str(free_ports()[0])
    common = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def is_told(held: psutil.Process, signum: int) -> bool:
    """Whether the signal has been sent to a process that is suspended, which heeds it when it goes on."""
    pending = next(line for line in Path(f"/proc/{held.pid}/status").read_text().splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending.split()[1], 16) >> (signum - 1) & 1)


def run_here(module: str, words: Sequence[str], cwd: Path, environment: Mapping[str, str], said: Sequence[Path]) -> None:
    """Be the command, with standard output and error in the two files `said`."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for stream, file in enumerate(said, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = [module, *words]
    warnings.filterwarnings("ignore", module="runpy")  # which finds that a module it is to run has been imported
    runpy.run_module(f"alexnet_dist.{module}", run_name="__main__", alter_sys=True)
