"""A real SLURM of two nodes on this one machine: a controller, two slurmd and a munge of their own, in a folder of their own.

Jobs are numbered from a free port on, so that those of two clusters at once do not meet.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.forked import still_running
from tests.ports import free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NODES = ("127.0.0.2", "127.0.0.3")  # names that every node can resolve, with nothing written into /etc/hosts

CONFIGURATION = """\
ClusterName=alexnet-dist-tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=500000
JobRequeue=1
FirstJobId={ports[0]}
KillWait=60
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={nodes} NodeAddr={nodes} NodeHostname={hostname} Port=[{ports[1]}-{ports[2]}] CPUs=2
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=grace Nodes=ALL PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=9
"""


class CannotStart(Exception):  # noqa: N818 - it is a reason to skip, not an error
    """Why there is no SLURM here."""


@dataclass(frozen=True)
class Cluster:
    """`environment` is what its commands need."""

    environment: Mapping[str, str]

    def submit(self, *words: str | Path, cwd: Path, **variables: str) -> str:
        """sbatch with these words, as a person would in the folder `cwd`; the job's id."""
        environment = {**self.environment, **variables}
        done = subprocess.run(
            ["sbatch", "--parsable", *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def command(self, *words: str) -> str:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True).stdout

    def field(self, job: str, name: str) -> str:
        """A field of `scontrol show job`, such as JobState or Restarts."""
        told = self.command("scontrol", "--oneliner", "show", "job", job)
        return dict(word.split("=", 1) for word in told.split() if "=" in word)[name]

    def wait(self, job: str, *states: str, timeout: float) -> str:
        """Wait until the job is in one of these states; which."""
        deadline = time.monotonic() + timeout
        hurried = False
        while (state := self.field(job, "JobState")) not in states or self._completing(job):
            assert time.monotonic() < deadline, f"job {job} is still {state}"
            if state == "PENDING" and self.field(job, "Restarts") != "0" and not hurried:
                # SLURM lets a requeued job wait for two minutes. Started again in the second in which it was requeued, it fails:
                # slurmd still holds its credential as revoked. Refused where it has begun or is being cleaned up meanwhile.
                hurry = ["scontrol", "update", f"JobId={job}", "StartTime=now+3"]
                hurried = not subprocess.run(hurry, env=self.environment, capture_output=True, check=False).returncode
            time.sleep(0.3)
        return state

    def wait_until_over(self, job: str, timeout: float) -> str:
        """Wait until the job is over for good and its nodes are free; its last state."""
        return self.wait(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", timeout=timeout)

    def _completing(self, job: str) -> bool:
        return bool(self.command("squeue", "--noheader", "--jobs", job, "--states", "COMPLETING"))


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Start it, and stop it with every process that it started.

    `folder` is open to all users, as munge asks, and short enough for a socket's path.

    Raises:
        CannotStart: its programs are not installed, or this user may not start them.
    """
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        raise CannotStart(f"SLURM is not installed here ({', '.join(missing)}): apt-get install slurm-wlm munge")
    if os.geteuid():
        raise CannotStart("SLURM's daemons are started by root only")
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    configuration = folder / "slurm.conf"
    hostname = socket.gethostname().split(".")[0]
    configuration.write_text(
        CONFIGURATION.format(folder=folder, ports=free_ports(3), nodes=f"127.0.0.[2-{len(NODES) + 1}]", hostname=hostname)
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    cluster = Cluster({**inherited, "SLURM_CONF": str(configuration), "MUNGE_SOCKET": str(folder / "munge.socket")})
    with ExitStack() as at_end:
        at_end.callback(_end_what_is_left, str(configuration))
        munge_files = [f"--{kind}={folder}/munge.{name}" for kind, name in MUNGE_FILES.items()]
        for daemon in (
            ["munged", "--foreground", "--force", *munge_files],
            ["slurmctld", "-D", "-c", "-f", str(configuration)],
            *(["slurmd", "-D", "-N", node, "-f", str(configuration)] for node in NODES),
        ):
            at_end.enter_context(_daemon(daemon, cluster.environment, folder))
        _wait_until_idle(cluster, folder)
        try:
            yield cluster
        finally:
            cluster.command("scancel", "--full", "--signal=KILL", "--user=root")
            cluster.command("scancel", "--user=root")


MUNGE_FILES = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


@contextmanager
def _daemon(command: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    with (folder / "daemons.log").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(cluster: Cluster, folder: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        states = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%t"],
            env=cluster.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if states.stdout.split() == ["idle"] * len(NODES):
            return
        time.sleep(0.2)
    raise CannotStart(f"SLURM did not start here: {(folder / 'daemons.log').read_text()[-2000:]}")


def _end_what_is_left(configuration: str) -> None:
    """Jobs' processes and slurmstepd live on when slurmd ends."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_CONF") == configuration:
                left.append(process)
                process.kill()
        except psutil.Error:
            continue
    still_running(left, seconds=10)


def own_experiment(folder: Path) -> tuple[str, str, str]:
    """The words for an experiment of the user's own, three steps long, in folder/mine."""
    (folder / "mine" / "experiment").mkdir(parents=True)
    (folder / "mine" / "experiment" / "short.yaml").write_text("# @package _global_\ntrainer: {max_steps: 3}\n")
    return "--config-dir", "mine", "experiment=short"
