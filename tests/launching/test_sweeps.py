"""Sweeps: a failed job costs no other, a sweep begun again does what is not done, jobs run side by side, Optuna hears of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from alexnet_dist.errors import UserError
from alexnet_dist.launching.overrides import accepted
from alexnet_dist.launching.processes import HANDED_ON
from alexnet_dist.launching.side_by_side import SideBySide
from tests.commands import LAUNCHED, read_metrics
from tests.forked import run_forked

SMALL = (
    *("tracking=none", "run.report=false", "run.dir=sweep", "evaluation.views=1", "data.size=64", "trainer.batch_size=32"),
    *("trainer.max_steps=2", "trainer.log_every=1", "parallel.processes=1", "data.statistics_images=16"),
)


def test_a_failed_job_is_counted_and_the_others_go_on_and_a_second_start_does_what_is_not_done(
    few_images: Path, tmp_path: Path
) -> None:
    words = ("-m", *SMALL, f"data.root={few_images}")
    done = run_forked("train", *words, "optimizer.lr=0.01,1e+30,-1", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "error: optimizer.lr: input should be greater than 0, not -1" in done.stderr.splitlines()
    last = done.stderr.splitlines()[-1]
    assert last.startswith("1 of 3 jobs done, 2 failed: 1 optimizer.lr=1e+30; 2 optimizer.lr=-1; least top1_error "), done.stderr
    assert len(done.stderr.splitlines()) == 3, done.stderr
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["0", "1", "multirun.yaml"]
    assert not (tmp_path / "runs").exists()

    before = read_metrics(tmp_path / "sweep" / "0")
    again = run_forked("train", *words, "optimizer.lr=0.01,0.02,0.03", cwd=tmp_path)
    assert again.returncode == 1, again.stderr
    assert "job 0 optimizer.lr=0.01 is done already: sweep/0" in again.stderr
    assert "error: sweep/1 holds a job with optimizer.lr=1e+30, and this one says optimizer.lr=0.02: " in again.stderr
    assert again.stderr.splitlines()[-1].startswith("2 of 3 jobs done, 1 failed: 1 optimizer.lr=0.02; least top1_error ")
    assert read_metrics(tmp_path / "sweep" / "0") == before


def test_a_sweep_that_is_refused_leaves_what_was_there_and_no_folder(few_images: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").write_text("of those before")
    words = ("-m", *SMALL, f"data.root={few_images}", "optimizer.lr=-1,-2")
    assert run_forked("train", *words, cwd=tmp_path).returncode == 1
    assert (tmp_path / "sweep" / "multirun.yaml").read_text() == "of those before"
    assert run_forked("train", *words, "run.dir=other", cwd=tmp_path).returncode == 1
    assert not (tmp_path / "other").exists()
    done = run_forked("train", "-m", *SMALL, "model=glob(plants*)", cwd=tmp_path)
    assert (done.returncode, done.stderr.split(":")[:2]) == (2, ["error", " the sweep has no job"])


def test_as_many_jobs_at_once_as_cannot_be_are_refused(few_images: Path, tmp_path: Path) -> None:
    done = run_forked("train", "-m", *SMALL, f"data.root={few_images}", "parallel.jobs=0", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("error: parallel.jobs: input should be greater than 0, not 0\n") == 2
    assert "0 of 2 jobs done, 2 failed" in done.stderr


@pytest.mark.slow
def test_a_failed_job_costs_none_that_runs_beside_it(few_images: Path, tmp_path: Path) -> None:
    words = ("-m", *SMALL, f"data.root={few_images}", "parallel.jobs=2", "optimizer.lr=0.01,0.001,1e+30")
    done = run_forked("train", *words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("2 of 3 jobs done, 1 failed: 2 optimizer.lr=1e+30; least "), done.stderr
    for job in "01":
        assert "done: checkpoints" in (tmp_path / "sweep" / f"{job}.log").read_text()


def test_a_signal_stops_all_jobs_that_run_side_by_side_and_begins_no_other(few_images: Path, tmp_path: Path) -> None:
    endless = ("trainer.max_steps=100000", "trainer.epochs=100000", "trainer.validate_every=1000")
    words = ("-m", *SMALL, f"data.root={few_images}", "parallel.jobs=2", "seed=0,1,2", *endless)
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    process = subprocess.Popen(
        [sys.executable, "-m", "alexnet_dist.train", *words],
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    metrics = [tmp_path / "sweep" / job / "metrics.jsonl" for job in "01"]
    deadline = time.monotonic() + 120
    while not all(file.exists() and file.stat().st_size for file in metrics):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    jobs = psutil.Process(process.pid).children()
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[: len(cores) // 2], cores[len(cores) // 2 :]] if len(cores) > 1 else [cores, cores]
    assert sorted(job.cpu_affinity() for job in jobs if "alexnet_dist.launching.composed" in job.cmdline()) == shares
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.splitlines()[-1] == "0 of 2 jobs done, 2 stopped: 0 seed=0; 1 seed=1"
    assert [(tmp_path / "sweep" / job / "stopped").read_text() for job in "01"] == ["signal\n", "signal\n"]


@pytest.fixture
def own_signals() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in HANDED_ON}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("own_signals")
def test_jobs_side_by_side_share_the_gpus(tmp_path: Path) -> None:
    ended: list[tuple[int, int]] = []
    with pytest.raises(UserError, match=r"parallel.jobs=3 is more than the GPUs here, 2"):
        SideBySide("tests.launching.shown", 3, ["0", "1"], lambda *how: ended.append(how))
    jobs = SideBySide("tests.launching.shown", 2, ["4", "5", "6", "7"], lambda *how: ended.append(how))
    for number in range(2):
        jobs.wait_for_room()
        jobs.start(number, {}, tmp_path / f"{number}.log")
    jobs.wait(None)
    assert sorted(ended) == [(0, 2), (1, 2)]
    assert [(tmp_path / f"{number}.log").read_text() for number in range(2)] == ["error: 4,5\n", "error: 6,7\n"]


@pytest.mark.parametrize("at_once", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_optuna_s_sweeper_ends_with_its_best(at_once: int, few_images: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    optuna = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1")
    words = ("-m", *optuna, *SMALL, f"data.root={few_images}", "tracking.objective=loss", f"parallel.jobs={at_once}")
    done = run_forked("train", *words, "optimizer.lr=interval(0.0001,0.01)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    best = OmegaConf.to_container(OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml"))
    assert isinstance(best, dict)
    losses = {job: read_metrics(tmp_path / "sweep" / str(job))[-1]["loss"] for job in range(3)}
    job = min(losses, key=lambda job: losses[job])
    assert best["best_value"] == losses[job]
    config = json.loads((tmp_path / "sweep" / str(job) / "config.json").read_text())
    assert best["best_params"] == {"optimizer.lr": config["optimizer"]["lr"]}
    assert done.stderr.splitlines()[-1].startswith(f"3 of 3 jobs done; least loss {losses[job]:.4f}: {job} ")


def test_the_command_line_of_wandb_s_agent_trains_the_run_that_the_agent_names(
    few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args  # not at the top, where it delays all of pytest's workers

    chosen = {"optimizer.lr": {"value": 0.005}, "trainer.deterministic": {"value": True}, "model": {"value": "tiny"}}
    for name, value in {"WANDB_SWEEP_ID": "asweep", "WANDB_RUN_ID": "arun", "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    forms = create_sweep_command_args({"args": chosen})
    words = forms["args"]
    assert accepted(words) == forms["args_no_hyphens"]
    done = run_forked("train", *SMALL, f"data.root={few_images}", "tracking=wandb", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "sweep" / "config.json").read_text())
    assert (config["optimizer"]["lr"], config["trainer"]["deterministic"]) == (0.005, True)
    (recorded,) = (tmp_path / "sweep" / "wandb").glob("offline-run-*")
    assert recorded.name.endswith("-arun")
