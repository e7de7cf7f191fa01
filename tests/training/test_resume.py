"""A run that is stopped and resumed is the run that was not."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.commands import read_metrics, read_tensors, train

SETTINGS = ("data.size=64", "trainer.batch_size=16", "trainer.epochs=2", "checkpoint.every=12", "optimizer.lr=0.005")
FIGURES = ("kind", "step", "epoch", "lr", "loss", "top1_error", "top5_error", "images", "views", "crossing_bytes")


@pytest.fixture(scope="module")
def unbroken(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    train(*SETTINGS, f"data.root={few_images}", "trainer.max_steps=40", "run.dir=run", cwd=folder)
    return folder / "run"


@pytest.fixture(scope="module")
def stopped(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    train(*SETTINGS, f"data.root={few_images}", "trainer.max_steps=17", "run.dir=run", cwd=folder)
    return folder / "run"


def _figures(run_dir: Path) -> list[dict[str, object]]:
    return [{key: record[key] for key in FIGURES if key in record} for record in read_metrics(run_dir)]


@pytest.mark.slow
def test_stopped_after_17_steps_and_resumed_it_ends_with_the_same_bits(
    unbroken: Path, stopped: Path, few_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    resumed = train(*SETTINGS, f"data.root={few_images}", "run.dir=run", "trainer.max_steps=40", cwd=tmp_path)
    assert "resumed from run/checkpoints/step-00000017: step 17" in resumed.stdout
    expected, tensors = read_tensors(unbroken), read_tensors(tmp_path / "run")
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name
    assert any(name.startswith("momentum.") and tensor.norm() > 0 for name, tensor in tensors.items())
    assert _figures(tmp_path / "run") == _figures(unbroken)


@pytest.mark.slow
def test_resumed_on_one_process_it_agrees_within_rounding(
    unbroken: Path, stopped: Path, few_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    words = (*SETTINGS, f"data.root={few_images}", "run.dir=run", "parallel.processes=1")
    train(*words, "trainer.max_steps=40", cwd=tmp_path)
    expected = read_tensors(unbroken)
    for name, tensor in read_tensors(tmp_path / "run").items():
        assert (tensor - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


@pytest.mark.slow
def test_a_run_goes_on_from_a_named_checkpoint_with_another_rate(stopped: Path, few_images: Path, tmp_path: Path) -> None:
    words = (*SETTINGS, f"data.root={few_images}", f"resume={stopped}", "run.dir=other", "optimizer.lr=0.001")
    done = train(*words, "trainer.max_steps=37", cwd=tmp_path)
    assert f"resumed from {stopped}/checkpoints/step-00000017" in done.stdout
    steps = [(record["step"], record["lr"]) for record in read_metrics(tmp_path / "other") if record["kind"] == "train"]
    assert steps == [(20, 0.001), (30, 0.001)]
    for further, before in ((38, 37), (39, 38)):  # it has got further since, however often it is started again
        done = train(*words, f"trainer.max_steps={further}", cwd=tmp_path)
        assert f"resumed from other/checkpoints/step-000000{before}" in done.stdout


@pytest.mark.slow
def test_with_two_replicas_it_is_the_same_run(unbroken: Path, few_images: Path, tmp_path: Path) -> None:
    words = (*SETTINGS, f"data.root={few_images}", "trainer.max_steps=10", "run.dir=run", "parallel.processes=4")
    done = train(*words, cwd=tmp_path)
    assert "2 processes, replicas: 2" in done.stdout
    ours, theirs = read_metrics(tmp_path / "run")[0], read_metrics(unbroken)[0]
    assert (ours["kind"], ours["step"]) == ("train", 10)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


@pytest.mark.slow
def test_evaluated_again_a_run_tells_the_updates_of_its_last_step(few_images: Path, tmp_path: Path) -> None:
    frozen = "schedule.phases=[{epoch: 1, layers: {conv1: {freeze: true}}}, {epoch: 2, layers: {conv1: {freeze: false}}}]"
    words = (*SETTINGS, f"data.root={few_images}", "run.dir=run", "parallel.processes=1", "evaluation.views=1", frozen)
    for _ in range(2):
        train(*words, cwd=tmp_path)
        last = read_metrics(tmp_path / "run")[-1]
        assert (last["epoch"], last["layers"]["conv1"]["update"]) == (2, [0.0, 0.0])
        assert min(last["layers"]["conv2"]["update"]) > 0
