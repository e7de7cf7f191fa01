"""slurm/train.sbatch, submitted to a real SLURM."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.commands import read_metrics
from tests.forked import ranks, run_forked
from tests.slurm.cluster import Cluster, own_experiment

SCRIPT = Path(__file__).parents[2] / "slurm" / "train.sbatch"
SMALL = (
    *("data.size=64", "trainer.batch_size=16", "evaluation.views=1", "optimizer.lr=0.005", "trainer.log_every=1"),
    *("trainer.epochs=1000", "trainer.validate_every=1000", "checkpoint.every=10000", "parallel.threads=1"),
    *("run.report=false", "data.statistics_images=16"),
)
STEPS = "trainer.max_steps=100"
# Nodes are shared by tests alone; what takes longer than this will never be.
LIMIT = 900


def _submit(cluster: Cluster, cwd: Path, images: Path, *words: str, options: tuple[str, ...] = (), **variables: str) -> str:
    overrides = (*SMALL, f"data.root={images}", *words)
    return cluster.submit(*options, SCRIPT, *overrides, cwd=cwd, PYTHON=sys.executable, WANDB_MODE="offline", **variables)


def _run_dir(cwd: Path) -> Path:
    """The folder of the one run there, once it is made."""
    return next((cwd / "runs").glob("*"), cwd / "runs")


def _said(cwd: Path, job: str) -> str:
    return (cwd / f"slurm-{job}.log").read_text()


def _state(run_dir: Path) -> dict[str, Any]:
    """What the run's last checkpoint says beside the tensors."""
    checkpoints = run_dir / "checkpoints"
    return json.loads((checkpoints / (checkpoints / "latest").read_text().strip() / "state.json").read_text())


def test_it_trains_and_two_nodes_hold_two_replicas(cluster: Cluster, few_images: Path, tmp_path: Path) -> None:
    job = _submit(cluster, tmp_path, few_images, *own_experiment(tmp_path), "run.report=true", options=("--nodes=2",))
    assert cluster.wait_until_over(job, timeout=LIMIT) == "COMPLETED", _said(tmp_path, job)
    run_dir = tmp_path / "runs" / f"tiny-slurm-{job}"
    assert [record["step"] for record in read_metrics(run_dir)] == [1, 2, 3, 3]
    assert "2 towers in 2 processes, replicas: 2" in _said(tmp_path, job)
    assert (run_dir / "report.html").is_file()
    assert list(run_dir.glob("wandb/offline-run-*"))


def test_a_python_without_the_package_is_a_sentence(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(SCRIPT, cwd=tmp_path, PYTHON="/usr/bin/no-python")
    assert cluster.wait_until_over(job, timeout=LIMIT) == "FAILED"
    said = _said(tmp_path, job)
    assert said.startswith("error: '/usr/bin/no-python' on ")
    assert "PYTHON=" in said
    assert len(said.splitlines()) == 1
    assert cluster.field(job, "ExitCode") == "2:0"


@pytest.mark.slow
def test_the_word_of_an_earlier_start_is_not_taken_for_that_of_one_that_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stopped").write_text("done\n")
    job = _submit(cluster, tmp_path, tmp_path / "nowhere", "run.dir=run", PROCESSES="1")
    assert cluster.wait_until_over(job, timeout=LIMIT) == "FAILED", _said(tmp_path, job)
    assert f"error: data.root={tmp_path}/nowhere is not a folder" in _said(tmp_path, job)
    assert cluster.field(job, "Restarts") == "0"
    assert (tmp_path / "run" / "stopped").read_text() == "done\n"


@pytest.mark.slow
def test_plain_srun_starts_a_process_for_each_task(cluster: Cluster, few_images: Path, tmp_path: Path) -> None:
    words = " ".join((*SMALL, f"data.root={few_images}", *own_experiment(tmp_path), "tracking=none"))
    train = f"{sys.executable} -m alexnet_dist.train {words}"
    script = tmp_path / "script"
    apart, together = "--ntasks=2 --ntasks-per-node=1", "--ntasks-per-node=2 --overcommit"
    script.write_text(f"#!/bin/bash\nsrun {apart} {train} run.dir=apart\nsrun {together} {train} run.dir=together\n")
    job = cluster.submit("--nodes=2", "--ntasks-per-node=2", "--output=log", script, cwd=tmp_path)
    assert cluster.wait_until_over(job, timeout=LIMIT) == "COMPLETED", (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    for folder, replicas in (("apart", 1), ("together", 2)):
        assert f"2 towers in 2 processes, replicas: {replicas}, cpu, fp32; run folder {folder}" in said
        assert [record["step"] for record in read_metrics(tmp_path / folder)] == [1, 2, 3, 3]


@pytest.mark.slow
def test_before_its_time_is_up_it_saves_and_goes_on_and_loses_no_step(
    cluster: Cluster, few_images: Path, tmp_path: Path
) -> None:
    words = (STEPS, "parallel.timeout=600")
    job = _submit(cluster, tmp_path, few_images, *words, options=("--time=60", "--signal=USR1@100"))
    with _held_up(cluster, job, tmp_path, "Received 10 death signal"):
        minutes = int(cluster.command("squeue", "--noheader", "--jobs", job, "--format=%M").split(":")[0])
        cluster.command("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 2}")
    cluster.wait(job, "PENDING", timeout=LIMIT)
    cluster.command("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    assert cluster.wait_until_over(job, timeout=LIMIT) == "COMPLETED", _said(tmp_path, job)
    _assert_no_step_was_lost(tmp_path, job, "stopped by SIGUSR1")


@pytest.mark.slow
def test_preempted_it_saves_and_goes_on_and_loses_no_step(cluster: Cluster, few_images: Path, tmp_path: Path) -> None:
    words = (STEPS, "parallel.timeout=600", 'run.dir="runs/lr=0.005"')
    job = _submit(cluster, tmp_path, few_images, *words, options=("--partition=grace", "--nodelist=127.0.0.2"))
    with _held_up(cluster, job, tmp_path, "Received 15 death signal"):
        urgent = _submit_urgent(cluster, tmp_path)
    assert cluster.wait_until_over(urgent, timeout=LIMIT) == "COMPLETED", _said(tmp_path, job)
    assert cluster.wait_until_over(job, timeout=LIMIT) == "COMPLETED", _said(tmp_path, job)
    _assert_no_step_was_lost(tmp_path, job, "stopped by SIGTERM")


@pytest.mark.slow
def test_preempted_while_it_starts_it_is_queued_again(cluster: Cluster, few_images: Path, tmp_path: Path) -> None:
    options = ("--partition=grace", "--nodelist=127.0.0.2")
    job = _submit(cluster, tmp_path, few_images, "trainer.max_steps=3", "tracking=none", options=options)
    cluster.wait(job, "RUNNING", timeout=LIMIT)
    urgent = _submit_urgent(cluster, tmp_path)
    assert cluster.wait_until_over(urgent, timeout=LIMIT) == "COMPLETED", _said(tmp_path, job)
    assert cluster.wait_until_over(job, timeout=LIMIT) == "COMPLETED", _said(tmp_path, job)
    assert cluster.field(job, "Restarts") == "1"
    assert [record["step"] for record in read_metrics(_run_dir(tmp_path))] == [1, 2, 3, 3]


@pytest.mark.slow
def test_scancel_leaves_a_usable_checkpoint_and_ends_the_job(cluster: Cluster, few_images: Path, tmp_path: Path) -> None:
    job = _submit(cluster, tmp_path, few_images, "trainer.max_steps=100000", "tracking=none")
    _wait_until_it_trains(cluster, job, tmp_path)
    cluster.command("scancel", job)
    assert cluster.wait_until_over(job, timeout=LIMIT) == "CANCELLED"
    assert cluster.field(job, "Restarts") == "0"
    run_dir = _run_dir(tmp_path)
    stopped = re.search(r"stopped by SIGTERM at step (\d+)", _said(tmp_path, job))
    assert stopped, _said(tmp_path, job)
    assert _state(run_dir)["step"] == int(stopped[1]) == read_metrics(run_dir)[-1]["step"]
    done = run_forked("evaluate", f"checkpoint={run_dir}", "views=1", cwd=tmp_path, environments=ranks(1))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["step"] == int(stopped[1])


def _submit_urgent(cluster: Cluster, cwd: Path) -> str:
    """A job that takes the node away from one in the partition `grace`."""
    (cwd / "urgent").write_text("#!/bin/bash\nsleep 1\n")
    options = ("--partition=urgent", "--nodelist=127.0.0.2", "--cpus-per-task=2")
    return cluster.submit(*options, cwd / "urgent", cwd=cwd)


@contextmanager
def _held_up(cluster: Cluster, job: str, cwd: Path, until: str) -> Iterator[None]:
    """Hold one process of a run that trains up, so that no step is done while SLURM takes its time, until the log says so."""
    _wait_until_it_trains(cluster, job, cwd)
    (process,) = (process for process in psutil.process_iter() if _is_rank(process, job, "1"))
    process.suspend()
    yield
    _wait_until(lambda: until in _said(cwd, job), cwd, job)
    process.resume()


def _is_rank(process: psutil.Process, job: str, rank: str) -> bool:
    try:
        environment = process.environ()
        return environment.get("SLURM_JOB_ID") == job and environment.get("RANK") == rank and "LOCAL_RANK" in environment
    except psutil.Error:
        return False


def _wait_until_it_trains(cluster: Cluster, job: str, cwd: Path) -> None:
    def trains() -> bool:
        metrics = _run_dir(cwd) / "metrics.jsonl"
        return metrics.exists() and len(metrics.read_text().splitlines()) > 10

    cluster.wait(job, "RUNNING", timeout=LIMIT)
    _wait_until(trains, cwd, job)


def _wait_until(happened: Callable[[], bool], cwd: Path, job: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < deadline, _said(cwd, job)
        time.sleep(0.1)


def _assert_no_step_was_lost(cwd: Path, job: str, said: str) -> None:
    """The run stopped once and went on at the same step, and its record is that of one run."""
    log, run_dir = _said(cwd, job), _run_dir(cwd)
    (stopped,) = re.findall(rf"{said} at step (\d+)", log)
    assert re.findall(r"resumed from .*: step (\d+)", log) == [stopped]
    assert [record["step"] for record in read_metrics(run_dir) if record["kind"] == "train"] == list(range(1, 101))
    recorded = sorted(run_dir.glob("wandb/offline-run-*"))
    assert len(recorded) == 2
    assert {folder.name.split("-")[-1] for folder in recorded} == {_state(run_dir)["wandb_id"]}
