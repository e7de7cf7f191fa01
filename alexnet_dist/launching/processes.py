"""A command's own processes, started through torch's own launcher."""

import logging
import multiprocessing
import os
import select
import signal
import socket
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import connection, forkserver, resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.multiprocessing import start_processes as start_torch_processes

from alexnet_dist.errors import CRASHED, LOST, RunFailed, tell
from alexnet_dist.launching.folders import SCRATCH

# What a process that others are forked from imports for them.
PRELOAD = "alexnet_dist.launching.preload"

# Where the processes of the plain form meet: all are on this machine.
LOCAL = "127.0.0.1"

# What processes that were told to end may take for their step and their checkpoint before they are killed.
SHUTDOWN_SECONDS = 120

# A file in the processes' temporary folder: a signal has come, which the launcher hands on.
ENDING = "ending"

# The process that stands by to be forked from, and a socket that it listens to.
_standing_by: list[tuple[socket.socket, int]] = []

# Handed on to the processes, which end in their own way.
HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGQUIT)


def start_processes(entry: Callable[..., Any], processes: int, restarts: int, *arguments: Any) -> int:
    """Run `entry(*arguments)` in so many new processes of this machine, as torchrun --standalone would; 0 or a status.

    When one dies all are started again, at most `restarts` times. The status is that of the process that failed first; the others
    have been ended by then. SIGINT, SIGTERM, SIGUSR1, SIGUSR2 and SIGHUP are handed on to the processes, which end in their own
    way; the status is then 128 and the signal's number. SIGHUP is ignored where it was before, as nohup asks. Afterwards signals
    are heard as before.

    Raises:
        RunFailed: a process was ended by a signal, crashed, or lost the others, once more than it may.
    """
    _wake_forkserver(entry.__module__)
    # The processes say themselves what went wrong; the launcher's own account of it is a page of tracebacks.
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Left as they are at the end, a second signal, as of SLURM when it queues the job again, would be a traceback.
    heard = {signum: signal.getsignal(signum) for signum in HANDED_ON}
    try:
        # What they leave in the temporary folder goes with them.
        with tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as scratch:
            for signum, handler in heard.items():
                if (signum, handler) != (signal.SIGHUP, signal.SIG_IGN):
                    signal.signal(signum, partial(_end_processes, Path(scratch, ENDING)))
            return _run(processes, restarts, scratch, entry, *arguments)
    except SignalException as received:  # between two starts too
        return 128 + received.sigval
    finally:
        for signum, handler in heard.items():
            signal.signal(signum, handler)


def _end_processes(ending: Path, signum: int, frame: FrameType | None) -> None:
    """Write the file `ending`, and raise what torch's launcher takes as word to hand the signal on to its processes and to wait
    for their end.

    Not while it starts them: it would forget those that it has begun, which would wait for the others, and it for them.
    """
    if any(outer.f_code is start_torch_processes.__code__ for outer, _ in traceback.walk_stack(frame)):
        again = threading.Timer(0.1, os.kill, (os.getpid(), signum))
        again.daemon = True
        again.start()
    else:
        with suppress(OSError):  # at the end the folder goes
            ending.touch()
        raise SignalException(signal.strsignal(signum) or "", signal.Signals(signum))


def _run(processes: int, restarts: int, scratch: str, entry: Callable[..., Any], *arguments: Any) -> int:
    for restart in range(1, restarts + 2):
        try:
            elastic_launch(_launch_config(processes, scratch), _in_own_session)(os.getpid(), scratch, entry, *arguments)
            return 0
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode >= 0 and failure.exitcode not in (CRASHED, LOST):
                return failure.exitcode
            ended = f"was ended by {signal.Signals(-failure.exitcode).name}" if failure.exitcode < 0 else "failed"
            how = f"process {rank} {ended}"
        if restart <= restarts:
            tell(f"{how}: restart {restart} of {restarts}")
    raise RunFailed(f"{how}; the last complete checkpoint stays")


def stand_by() -> None:
    """Fork the process that others are forked from, multiprocessing's "forkserver", while this one has no threads and has asked
    no GPU anything.

    Started as multiprocessing does it, that process would import torch again. It waits until processes are wanted, and only then
    imports what the launcher itself has no need of; it ends with this one. It heeds no signal, be it sent to all processes of a
    job or of a terminal: the launcher would take its end for that of the processes.
    """
    ours, theirs = socket.socketpair()
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
    pid = os.fork()
    if not pid:
        ours.close()
        _serve(theirs)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
    theirs.close()
    _standing_by.append((ours, pid))


def _serve(launcher: socket.socket) -> NoReturn:
    try:
        _, listeners, _, _ = socket.recv_fds(launcher, 1, 1)
        if listeners:
            forkserver.main(listeners[0], launcher.fileno(), [PRELOAD])
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


def _wake_forkserver(module: str) -> None:
    """Have the process that stands by serve as multiprocessing's own; its names for that are private, of Python 3.11 to 3.13.

    In a job that submitit started none stands by, for ranks would inherit what submitit does at a signal: there it is started as
    multiprocessing does it.
    """
    if _standing_by:
        server: Any = forkserver._forkserver
        ours, pid = _standing_by.pop()
        with socket.socket(socket.AF_UNIX) as listener:
            address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]  # in a folder of this user's alone
            listener.bind(address)
            listener.listen()
            socket.send_fds(ours, [b"."], [listener.fileno()])
        server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, ours.detach(), pid
    multiprocessing.set_forkserver_preload([PRELOAD, module])
    # Neither process heeds a signal that is sent to all of a job or of a terminal. Python's tracker of semaphores lets SIGINT and
    # SIGTERM through again, here too, and heeds them as little.
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
    forkserver.ensure_running()  # which does nothing where it runs
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)


def _launch_config(processes: int, scratch: str) -> LaunchConfig:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{LOCAL}:0",
        local_addr=LOCAL,
        max_restarts=0,  # torch would also start again what the user has to put right
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(scratch),
        start_method="forkserver",
        signals_to_handle="",  # torch would take them from `_end_processes`
    )
    # Set, not given: the first of the supported versions of torch may not have it, and wait for 30 seconds.
    config.shutdown_timeout = SHUTDOWN_SECONDS
    return config


def _in_own_session(launcher: int, scratch: str, entry: Callable[..., Any], *arguments: Any) -> None:
    """Away from the terminal, whose Ctrl-C would come a second time beside the one that the launcher hands on; and in no need of
    the machine's name, which may not resolve."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # not a KeyboardInterrupt, before anything hears it
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ["TMPDIR"] = tempfile.tempdir = scratch
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
    threading.Thread(target=end_after, args=(launcher,), name="launcher", daemon=True).start()
    entry(*arguments)
    threading.Thread(target=_leave_when_all_end, args=(Path(scratch, ENDING),), name="end", daemon=True).start()


def _leave_when_all_end(ending: Path) -> None:
    """End this process, whose work is done, where the launcher was told to end while it finished it: torch lets a process go when
    all are done, and once a signal has come it lets none go and waits for SHUTDOWN_SECONDS."""
    while not ending.exists():
        time.sleep(0.1)
    os._exit(0)


def end_after(launcher: int) -> None:
    """End this process when the launcher has ended: nobody would end it, or start it again."""
    with suppress(ProcessLookupError):
        poll = select.poll()
        poll.register(os.pidfd_open(launcher), select.POLLIN)
        poll.poll()
    time.sleep(6)  # processes that met at the launcher have noticed by then, and one has said so
    tell("error: the process that started this one was lost; the last complete checkpoint stays")
    os._exit(LOST)
