"""What the launchers outside say to the processes that they start: torchrun, srun, and SLURM of its job."""

import os
import re
import subprocess
from collections.abc import Mapping

from alexnet_dist.errors import UserError


def outer_launcher() -> str | None:
    """`torchrun` or `srun` when this process is one of several that it started; None when a person started it alone."""
    if "TORCHELASTIC_RUN_ID" in os.environ or ("RANK" in os.environ and "WORLD_SIZE" in os.environ):
        return "torchrun"
    # A shell that srun --pty gives is one, whatever it was told of tasks; what is started in it by another srun has no terminal.
    in_shell = "SLURM_PTY_PORT" in os.environ and os.isatty(0)
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and not in_shell:
        return "srun"
    return None


def rank_of_process() -> int:
    """This process's rank; 0 where it is alone."""
    rank = os.environ.get("RANK", "0")
    return int(rank) if rank.isdecimal() else 0


def job_name(environment: Mapping[str, str] = os.environ) -> str | None:
    """A name that one SLURM job or one torchrun has for all processes that it starts, at first and after a fault; or None."""
    if job := environment.get("SLURM_JOB_ID"):
        return f"slurm-{job}"
    torchrun = environment.get("TORCHELASTIC_RUN_ID", "none")
    return None if torchrun == "none" else torchrun[:8]


def submitit_may_queue_again() -> bool:
    """Whether this process is a job of submitit's that SLURM has neither ended nor queued again by itself."""
    if "SUBMITIT_FOLDER" not in os.environ or "SLURM_JOB_ID" not in os.environ:
        return False
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" in os.environ:  # the first task's id is also that of all
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    state = ["squeue", "--noheader", "--jobs", job, "--format", "%T"]
    return subprocess.run(state, capture_output=True, text=True, check=False).stdout.strip() == "RUNNING"


def check_meeting_place() -> None:
    """Raises UserError where this process is one of several that cannot find each other."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if _processes() > 1 and missing:
        raise UserError(
            f"RANK and WORLD_SIZE are set and {' and '.join(missing)} not, where the processes meet: start them with torchrun, "
            "or unset RANK and WORLD_SIZE"
        )


def _processes() -> int:
    """How many there are. Raises UserError where RANK or WORLD_SIZE is no number."""
    for name in ("RANK", "WORLD_SIZE"):
        if not (said := os.environ.get(name, "1")).isdecimal():
            raise UserError(f"{name} is set to {said!r}, which is no number: start with torchrun, or unset RANK and WORLD_SIZE")
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_alone() -> None:
    """Raises UserError where this process is one of several that a launcher started, each of which would do all of the work."""
    launcher = outer_launcher()
    if launcher == "srun" or (launcher and _processes() > 1):
        raise UserError(
            f"this command is one process, and {launcher} started several of it: start it without {launcher}"
            + (", or unset RANK and WORLD_SIZE" if launcher == "torchrun" else "")
        )


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: gpu03 of gpu[03-04,7],login, rack1node5-ib of rack[1-2]node[5-8]-ib. scontrol, which
    says so too, is not found inside a container."""
    first = re.match(r"(?:[^\[,]|\[[^\]]*\])+", nodes)
    assert first
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first[0])


def adopt_srun(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that torch.distributed reads, from those that srun sets for each of its tasks."""
    # A step's ports must not meet another step's on the same node; ids are handed out in sequence.
    # Above 32768 the system may have given a port to a connection.
    port = 12_000 + (int(environment["SLURM_JOB_ID"]) * 16 + int(environment["SLURM_STEP_ID"])) % 20_000
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        # Such as "4" or "4(x2),3": tasks on each node in turn; nodes of a run are alike, so the first one's will do.
        "LOCAL_WORLD_SIZE": re.split(r"\D", environment["SLURM_STEP_TASKS_PER_NODE"])[0],
        "MASTER_ADDR": first_host(environment["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(port),
    }
