"""Sweeps as job arrays: slurm/sweep.sbatch on a real SLURM, and the split of a sweep into its jobs."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_dist.launching.sweep_job import sweep_jobs
from tests.commands import read_metrics
from tests.forked import run_forked
from tests.slurm.cluster import Cluster, own_experiment

SCRIPT = Path(__file__).parents[2] / "slurm" / "sweep.sbatch"
SMALL = (
    *("data.size=64", "data.statistics_images=16", "trainer.batch_size=32", "evaluation.views=1", "trainer.log_every=1"),
    "run.report=false",
)


def test_jobs_are_those_of_hydra_s_own_sweeper() -> None:
    assert sweep_jobs(["optimizer.lr=0.01,0.02", "seed=range(2)", "trainer.epochs=3"]) == [
        ["optimizer.lr=0.01", "seed=0", "trainer.epochs=3"],
        ["optimizer.lr=0.01", "seed=1", "trainer.epochs=3"],
        ["optimizer.lr=0.02", "seed=0", "trainer.epochs=3"],
        ["optimizer.lr=0.02", "seed=1", "trainer.epochs=3"],
    ]
    assert sweep_jobs(["model=glob(net145*)"]) == [["model=net145"], ["model=net145_half"]]


def test_with_the_sweep_s_folder_a_job_has_its_own_and_a_group(tmp_path: Path) -> None:
    done = run_forked("launching.sweep_job", "1", 'run.dir="runs/a=1"', "seed=1,2", cwd=tmp_path)
    assert done.stdout.splitlines() == ['++tracking.group="a=1"', 'run.dir="runs/a=1"', "seed=2", 'run.dir="runs/a=1/1"']
    done = run_forked("launching.sweep_job", "0", "run.dir=runs/a", "seed=1,2", "run.dir=runs/2012", cwd=tmp_path)
    assert done.stdout.splitlines() == ['++tracking.group="2012"', "run.dir=runs/2012", "seed=1", "run.dir=runs/2012/0"]


def test_a_number_beyond_the_sweep_is_a_sentence(tmp_path: Path) -> None:
    done = run_forked("launching.sweep_job", "3", "optimizer.lr=0.005,0.01,0.02", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the sweep has no job 3, its jobs are 0 to 2: submit it with --array=0-2\n"


@pytest.mark.slow
def test_an_array_trains_the_jobs_of_a_sweep_in_one_group(cluster: Cluster, few_images: Path, tmp_path: Path) -> None:
    words = ("--array=0-1", "slurm/sweep.sbatch", *SMALL, *own_experiment(tmp_path), f"data.root={few_images}")
    (tmp_path / "slurm").symlink_to(SCRIPT.parent)

    def submit(*more: str, **environment: str) -> tuple[str, list[str], list[str]]:
        array = cluster.submit(*words, *more, cwd=tmp_path, PYTHON=sys.executable, WANDB_MODE="disabled", **environment)
        states = [cluster.wait_until_over(f"{array}_{task}", timeout=900) for task in range(2)]
        return array, states, [(tmp_path / f"slurm-{array}_{task}.log").read_text() for task in range(2)]

    array, states, said = submit("optimizer.lr=0.005,0.01")
    assert states == ["COMPLETED", "COMPLETED"], said
    sweep = tmp_path / "runs" / f"sweep-slurm-{array}"
    assert [read_metrics(sweep / str(task))[0]["lr"] for task in range(2)] == [0.005, 0.01]
    configs = [json.loads((sweep / str(task) / "config.json").read_text()) for task in range(2)]
    assert {config["tracking"]["group"] for config in configs} == {sweep.name}

    shutil.copytree(sweep / "1", tmp_path / "runs" / "a=b" / "1")
    _, states, said = submit("optimizer.lr=0.005,0.02", 'run.dir="runs/a=b"', PROCESSES="1")
    assert states == ["COMPLETED", "FAILED"], said
    assert read_metrics(tmp_path / "runs" / "a=b" / "0")[0]["lr"] == 0.005
    assert said[1].startswith("error: runs/a=b/1 holds a job with optimizer.lr=0.01, and this one says optimizer.lr=0.02: ")


@pytest.mark.slow
def test_hydra_s_submitit_launcher_trains_the_jobs_of_a_sweep(cluster: Cluster, few_images: Path, tmp_path: Path) -> None:
    submitit = ("-m", "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=2", "hydra.launcher.timeout_min=10")
    small = (*SMALL, *own_experiment(tmp_path), f"data.root={few_images}")
    words = (*submitit, *small, "optimizer.lr=0.005,0.01", "run.dir=sweep", "tracking=none")
    command = [sys.executable, "-m", "alexnet_dist.train", *words]
    done = subprocess.run(
        command, cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert [read_metrics(tmp_path / "sweep" / job)[0]["lr"] for job in "01"] == [0.005, 0.01]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["preempted", "nearly out of time"])
def test_a_job_of_submitit_s_saves_and_is_queued_again(how: str, cluster: Cluster, few_images: Path, tmp_path: Path) -> None:
    submitit = ("-m", "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=2", "hydra.launcher.timeout_min=30")
    on = ("hydra.launcher.partition=grace", "++hydra.launcher.additional_parameters.nodelist=127.0.0.2")
    words = (*submitit, *on, *SMALL, f"data.root={few_images}", "run.dir=sweep", "tracking=none")
    long = ("trainer.max_steps=200", "trainer.epochs=1000", "trainer.validate_every=1000", "parallel.threads=1")
    process = subprocess.Popen(
        [sys.executable, "-m", "alexnet_dist.train", *words, *long, "optimizer.lr=0.005"],
        cwd=tmp_path, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    metrics = tmp_path / "sweep" / "0" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 10):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    job = cluster.command("squeue", "--noheader", "--format", "%A").split()[0]
    if how == "preempted":
        (tmp_path / "urgent").write_text("#!/bin/bash\nsleep 1\n")
        options = ("--partition=urgent", "--nodelist=127.0.0.2", "--cpus-per-task=2")
        cluster.wait_until_over(cluster.submit(*options, tmp_path / "urgent", cwd=tmp_path), timeout=300)
    else:
        cluster.command("scancel", "--signal=USR2", job)
    assert cluster.wait_until_over(job, timeout=300) == "COMPLETED"
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert cluster.field(job, "Restarts") == "1"
    assert [record["step"] for record in read_metrics(metrics.parent) if record["kind"] == "train"] == list(range(1, 201))
    starts = [json.loads(line) for line in (metrics.parent / "starts.jsonl").read_text().splitlines()]
    assert [start["event"] for start in starts] == ["start", "end", "start", "end"]
    assert starts[0]["step"] == 0 < starts[1]["step"] == starts[2]["step"]


def test_a_sweep_that_is_no_array_is_a_sentence(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(SCRIPT, "optimizer.lr=0.005,0.01", cwd=tmp_path, PYTHON=sys.executable)
    assert cluster.wait_until_over(job, timeout=300) == "FAILED"
    assert cluster.field(job, "ExitCode") == "2:0"
    (log,) = tmp_path.glob("slurm-*.log")
    assert log.read_text() == "error: a sweep is a job array: submit it with --array=0-2 for three jobs\n"
