"""Who starts the processes: an outer torchrun or srun, or the command itself through torch's own launcher."""

import logging
import multiprocessing
import os
import re
import select
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from alexnet_dist.errors import RunFailed, tell
from alexnet_dist.parallel.peers import LOST

# The status of a process that a fault of the program ended (EX_SOFTWARE of sysexits.h).
CRASHED = 70

# What processes that were told to end may take for their step and their checkpoint before they are killed.
SHUTDOWN_SECONDS = 120


def outer_launcher(environment: Mapping[str, str] = os.environ) -> str | None:
    """`torchrun` or `srun` when this process is one of several that it started; None when a person started it alone."""
    if "TORCHELASTIC_RUN_ID" in environment or ("RANK" in environment and "WORLD_SIZE" in environment):
        return "torchrun"
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "srun"
    return None


def adopt_srun(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that torch.distributed reads, from those that srun sets for each of its tasks.

    Raises:
        RuntimeError: scontrol cannot name the step's first host. (No fallback: localhost would give N runs of one.)
    """
    nodes = environment["SLURM_STEP_NODELIST"]
    answer = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False)
    if answer.returncode or not answer.stdout.split():
        raise RuntimeError(f"scontrol show hostnames {nodes} failed: {answer.stderr.strip()}")
    # A step's ports must not meet another step's on the same node; ids are handed out in sequence.
    # Above 32768 the system may have given a port to a connection.
    port = 12_000 + (int(environment["SLURM_JOB_ID"]) * 16 + int(environment["SLURM_STEP_ID"])) % 20_000
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        # Such as "4" or "4(x2),3": tasks on each node in turn; nodes of a run are alike, so the first one's will do.
        "LOCAL_WORLD_SIZE": re.split(r"\D", environment["SLURM_STEP_TASKS_PER_NODE"])[0],
        "MASTER_ADDR": answer.stdout.split()[0],
        "MASTER_PORT": str(port),
    }


def start_processes(entry: Callable[..., Any], processes: int, restarts: int, *arguments: Any) -> int:
    """Run `entry(*arguments)` in so many new processes of this machine, as torchrun --standalone would; 0 or a status.

    When one dies all are started again, at most `restarts` times. The status is that of the process that failed first; the others
    have been ended by then. SIGINT, SIGTERM and SIGUSR1 are handed on to the processes, which end in their own way; the status
    is then 128 and the signal's number.

    Raises:
        RunFailed: a process was ended by a signal, crashed, or lost the others, once more than it may.
    """
    # One process imports for all, and does not heed the keyboard meanwhile.
    multiprocessing.set_forkserver_preload([entry.__module__, "torch.distributed.checkpoint"])
    # The processes say themselves what went wrong; the launcher's own account of it is a page of tracebacks.
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        for restart in range(1, restarts + 2):
            try:
                elastic_launch(_launch_config(processes), _in_own_session)(os.getpid(), entry, *arguments)
                return 0
            except ChildFailedError as error:
                rank, failure = error.get_first_failure()
                if failure.exitcode >= 0 and failure.exitcode not in (CRASHED, LOST):
                    return failure.exitcode
                ended = f"was ended by {signal.Signals(-failure.exitcode).name}" if failure.exitcode < 0 else "failed"
                how = f"process {rank} {ended}"
            if restart <= restarts:
                tell(f"{how}: restart {restart} of {restarts}")
    except SignalException as received:  # between two starts too
        return 128 + received.sigval
    raise RunFailed(f"{how}; the last complete checkpoint stays")


def _launch_config(processes: int) -> LaunchConfig:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,  # torch would also start again what the user has to put right
        monitor_interval=0.1,
        start_method="forkserver",
        signals_to_handle="SIGINT,SIGTERM,SIGUSR1,SIGHUP,SIGQUIT",
    )
    # Set, not given: the first of the supported versions of torch may not have it, and wait for 30 seconds.
    config.shutdown_timeout = SHUTDOWN_SECONDS
    return config


def _in_own_session(launcher: int, entry: Callable[..., Any], *arguments: Any) -> None:
    """Away from the terminal, whose Ctrl-C would come a second time beside the one that the launcher hands on."""
    os.setsid()
    threading.Thread(target=_end_after, args=(launcher,), name="launcher", daemon=True).start()
    entry(*arguments)


def _end_after(launcher: int) -> None:
    """End this process when the launcher has ended: nobody would end it, or start it again."""
    with suppress(ProcessLookupError):
        poll = select.poll()
        poll.register(os.pidfd_open(launcher), select.POLLIN)
        poll.poll()
    time.sleep(6)  # processes that met at the launcher have noticed by then, and one has said so
    tell("error: the process that started this one was lost; the last complete checkpoint stays")
    os._exit(LOST)
