"""What the launchers outside say to the processes that they start: torchrun, srun, and SLURM of its job."""

import os
import re
import subprocess
from collections.abc import Mapping


def outer_launcher(environment: Mapping[str, str] = os.environ) -> str | None:
    """`torchrun` or `srun` when this process is one of several that it started; None when a person started it alone."""
    if "TORCHELASTIC_RUN_ID" in environment or ("RANK" in environment and "WORLD_SIZE" in environment):
        return "torchrun"
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "srun"
    return None


def rank_of_process(environment: Mapping[str, str] = os.environ) -> int:
    """This process's rank; 0 where it is alone."""
    return int(environment.get("RANK", "0"))


def job_name(environment: Mapping[str, str] = os.environ) -> str | None:
    """A name that one SLURM job or one torchrun has for all processes that it starts, at first and after a fault; or None."""
    if job := environment.get("SLURM_JOB_ID"):
        return f"slurm-{job}"
    torchrun = environment.get("TORCHELASTIC_RUN_ID", "none")
    return None if torchrun == "none" else torchrun[:8]


def submitit_may_queue_again(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a job of submitit's that SLURM has neither ended nor queued again by itself."""
    if "SUBMITIT_FOLDER" not in environment or "SLURM_JOB_ID" not in environment:
        return False
    job = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" in environment:  # the first task's id is also that of all
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    state = ["squeue", "--noheader", "--jobs", job, "--format", "%T"]
    return subprocess.run(state, capture_output=True, text=True, check=False).stdout.strip() == "RUNNING"


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
