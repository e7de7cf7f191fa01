"""slurm/train.sbatch, submitted to a real SLURM."""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.commands import read_metrics, run_command
from tests.slurm.cluster import Cluster

SCRIPT = Path(__file__).parents[2] / "slurm" / "train.sbatch"
# One thread a process, so that a machine with many cores takes its time as well.
LONG = ("trainer.batch_size=64", "trainer.epochs=100", "parallel.threads=1", "checkpoint.every=10000")
SMALL = ("data.size=64", "trainer.batch_size=32", "evaluation.views=1", "optimizer.lr=0.005", "trainer.log_every=1")


def _submit(cluster: Cluster, cwd: Path, images: Path, *words: str, options: tuple[str, ...] = (), **variables: str) -> str:
    overrides = (*SMALL, f"data.root={images}", *words)
    return cluster.submit(*options, SCRIPT, *overrides, cwd=cwd, PYTHON=sys.executable, WANDB_MODE="offline", **variables)


def _run_dir(cwd: Path, job: str) -> Path:
    return cwd / "runs" / f"tiny-slurm-{job}"


def _said(cwd: Path, job: str) -> str:
    return (cwd / f"slurm-{job}.log").read_text()


def _state(run_dir: Path) -> dict[str, Any]:
    """What the run's last checkpoint says beside the tensors."""
    checkpoints = run_dir / "checkpoints"
    return json.loads((checkpoints / (checkpoints / "latest").read_text().strip() / "state.json").read_text())


def test_it_trains(cluster: Cluster, drawn_images: Path, tmp_path: Path) -> None:
    job = _submit(cluster, tmp_path, drawn_images, "trainer.max_steps=3")
    assert cluster.wait_until_over(job, timeout=120) == "COMPLETED", _said(tmp_path, job)
    run_dir = _run_dir(tmp_path, job)
    assert [record["step"] for record in read_metrics(run_dir)] == [1, 2, 3, 3]
    assert "2 towers in 2 processes, replicas: 1" in _said(tmp_path, job)


def test_a_python_without_the_package_is_a_sentence(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(SCRIPT, cwd=tmp_path, PYTHON="/usr/bin/no-python")
    assert cluster.wait_until_over(job, timeout=30) == "FAILED"
    said = _said(tmp_path, job)
    assert said.startswith("error: '/usr/bin/no-python' on ")
    assert "PYTHON=" in said
    assert len(said.splitlines()) == 1
    assert cluster.field(job, "ExitCode") == "2:0"


@pytest.mark.slow
def test_two_nodes_hold_two_replicas(cluster: Cluster, drawn_images: Path, tmp_path: Path) -> None:
    job = _submit(cluster, tmp_path, drawn_images, "trainer.max_steps=3", options=("--nodes=2",))
    assert cluster.wait_until_over(job, timeout=200) == "COMPLETED", _said(tmp_path, job)
    assert "2 towers in 2 processes, replicas: 2" in _said(tmp_path, job)


@pytest.mark.slow
def test_before_its_time_is_up_it_saves_and_goes_on_and_loses_no_step(
    cluster: Cluster, drawn_images: Path, tmp_path: Path
) -> None:
    # A minute is SLURM's shortest limit, and it may give the signal up to a minute early.
    words = (*LONG, "trainer.max_steps=500")
    job = _submit(cluster, tmp_path, drawn_images, *words, options=("--time=1", "--signal=USR1@20"))
    assert cluster.wait_until_over(job, timeout=400) == "COMPLETED", _said(tmp_path, job)
    _assert_no_step_was_lost(tmp_path, job, "stopped by SIGUSR1", last=500)


@pytest.mark.slow
def test_preempted_it_saves_and_goes_on_and_loses_no_step(cluster: Cluster, drawn_images: Path, tmp_path: Path) -> None:
    words = (*LONG, "trainer.max_steps=300")
    job = _submit(cluster, tmp_path, drawn_images, *words, options=("--partition=grace", "--nodelist=127.0.0.2"))
    _wait_until_it_trains(cluster, job, tmp_path)
    (tmp_path / "urgent").write_text("#!/bin/bash\nsleep 1\n")
    options = ("--partition=urgent", "--nodelist=127.0.0.2", "--cpus-per-task=2")
    urgent = cluster.submit(*options, tmp_path / "urgent", cwd=tmp_path)
    assert cluster.wait_until_over(urgent, timeout=60) == "COMPLETED", _said(tmp_path, job)
    assert cluster.wait_until_over(job, timeout=200) == "COMPLETED", _said(tmp_path, job)
    _assert_no_step_was_lost(tmp_path, job, "stopped by SIGTERM", last=300)


@pytest.mark.slow
def test_scancel_leaves_a_usable_checkpoint_and_ends_the_job(cluster: Cluster, drawn_images: Path, tmp_path: Path) -> None:
    job = _submit(cluster, tmp_path, drawn_images, *LONG)
    _wait_until_it_trains(cluster, job, tmp_path)
    cluster.command("scancel", job)
    assert cluster.wait_until_over(job, timeout=60) == "CANCELLED"
    assert cluster.field(job, "Restarts") == "0"
    run_dir = _run_dir(tmp_path, job)
    stopped = re.search(r"stopped by SIGTERM at step (\d+)", _said(tmp_path, job))
    assert stopped, _said(tmp_path, job)
    assert _state(run_dir)["step"] == int(stopped[1]) == read_metrics(run_dir)[-1]["step"]
    done = run_command("evaluate", f"checkpoint={run_dir}", "views=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["step"] == int(stopped[1])


def _wait_until_it_trains(cluster: Cluster, job: str, cwd: Path) -> None:
    metrics = _run_dir(cwd, job) / "metrics.jsonl"
    cluster.wait(job, "RUNNING", timeout=30)
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 10):
        assert time.monotonic() < deadline, _said(cwd, job)
        time.sleep(0.2)


def _assert_no_step_was_lost(cwd: Path, job: str, said: str, last: int) -> None:
    """The run stopped and went on at the same step, once or more often, and its record is that of one run."""
    log, run_dir = _said(cwd, job), _run_dir(cwd, job)
    stopped = re.findall(rf"{said} at step (\d+)", log)
    assert stopped, log
    assert re.findall(r"resumed from .*: step (\d+)", log) == stopped
    assert [record["step"] for record in read_metrics(run_dir) if record["kind"] == "train"] == list(range(1, last + 1))
    recorded = sorted(run_dir.glob("wandb/offline-run-*"))
    assert len(recorded) == len(stopped) + 1
    assert {folder.name.split("-")[-1] for folder in recorded} == {_state(run_dir)["wandb_id"]}
