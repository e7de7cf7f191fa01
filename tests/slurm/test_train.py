"""slurm/train.sbatch, submitted to a real SLURM."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import read_metrics
from tests.slurm.cluster import Cluster

SCRIPT = Path(__file__).parents[2] / "slurm" / "train.sbatch"
SMALL = ("data.size=64", "trainer.batch_size=32", "evaluation.views=1", "optimizer.lr=0.005", "trainer.log_every=1")


def _submit(cluster: Cluster, cwd: Path, images: Path, *words: str, options: tuple[str, ...] = (), **variables: str) -> str:
    overrides = (*SMALL, f"data.root={images}", *words)
    return cluster.submit(*options, SCRIPT, *overrides, cwd=cwd, PYTHON=sys.executable, WANDB_MODE="offline", **variables)


def _said(cwd: Path, job: str) -> str:
    return (cwd / f"slurm-{job}.log").read_text()


def _state(run_dir: Path) -> dict[str, Any]:
    """What the run's last checkpoint says beside the tensors."""
    checkpoints = run_dir / "checkpoints"
    return json.loads((checkpoints / (checkpoints / "latest").read_text().strip() / "state.json").read_text())


def test_it_trains(cluster: Cluster, drawn_images: Path, tmp_path: Path) -> None:
    job = _submit(cluster, tmp_path, drawn_images, "trainer.max_steps=3")
    assert cluster.wait_until_over(job, timeout=120) == "COMPLETED", _said(tmp_path, job)
    run_dir = tmp_path / "runs" / f"tiny-slurm-{job}"
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
