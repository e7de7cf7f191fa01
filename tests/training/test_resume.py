"""A run that is stopped and resumed is the run that was not."""

from pathlib import Path

import pytest
import torch

from tests.commands import read_metrics, read_tensors, run_torchrun, train

SETTINGS = ("data.size=64", "trainer.batch_size=16", "trainer.epochs=2", "checkpoint.every=60", "optimizer.lr=0.005")
FIGURES = ("kind", "step", "epoch", "lr", "loss", "top1_error", "top5_error", "images", "views", "crossing_bytes")


@pytest.fixture(scope="module")
def unbroken(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    train(*SETTINGS, f"data.root={drawn_images}", "trainer.max_steps=200", "run.dir=run", cwd=folder)
    return folder / "run"


def _figures(run_dir: Path) -> list[dict[str, object]]:
    return [{key: record[key] for key in FIGURES if key in record} for record in read_metrics(run_dir)]


@pytest.mark.slow
def test_stopped_after_77_steps_and_resumed_it_ends_with_the_same_bits(
    unbroken: Path, drawn_images: Path, tmp_path: Path
) -> None:
    words = (*SETTINGS, f"data.root={drawn_images}", "run.dir=run")
    train(*words, "trainer.max_steps=77", cwd=tmp_path)
    resumed = train(*words, "trainer.max_steps=200", cwd=tmp_path)
    assert "resumed from run/checkpoints/step-00000077: step 77" in resumed.stdout
    expected, tensors = read_tensors(unbroken), read_tensors(tmp_path / "run")
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name
    assert any(name.startswith("momentum.") and tensor.norm() > 0 for name, tensor in tensors.items())
    assert _figures(tmp_path / "run") == _figures(unbroken)


@pytest.mark.slow
def test_resumed_on_one_process_it_agrees_within_rounding(unbroken: Path, drawn_images: Path, tmp_path: Path) -> None:
    words = (*SETTINGS, f"data.root={drawn_images}", "run.dir=run")
    train(*words, "trainer.max_steps=77", cwd=tmp_path)
    train(*words, "trainer.max_steps=200", "parallel.processes=1", cwd=tmp_path)
    expected = read_tensors(unbroken)
    for name, tensor in read_tensors(tmp_path / "run").items():
        if name.startswith("net."):
            assert (tensor - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


@pytest.mark.slow
def test_a_run_goes_on_from_a_named_checkpoint_with_another_rate(drawn_images: Path, tmp_path: Path) -> None:
    words = (*SETTINGS, f"data.root={drawn_images}")
    train(*words, "trainer.max_steps=20", "run.dir=first", cwd=tmp_path)
    done = train(
        *words, "trainer.max_steps=40", "run.dir=second", "resume=first", "optimizer.lr=0.001", cwd=tmp_path
    )
    assert "resumed from first/checkpoints/step-00000020" in done.stdout
    steps = [(record["step"], record["lr"]) for record in read_metrics(tmp_path / "second") if record["kind"] == "train"]
    assert steps == [(30, 0.001), (40, 0.001)]


@pytest.mark.slow
def test_under_torchrun_with_four_processes_it_is_the_same_run(unbroken: Path, drawn_images: Path, tmp_path: Path) -> None:
    words = (*SETTINGS, f"data.root={drawn_images}", "trainer.max_steps=20", "run.dir=run", "tracking=none")
    done = run_torchrun(4, "train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours = [record["loss"] for record in read_metrics(tmp_path / "run") if record["kind"] == "train"]
    theirs = [record["loss"] for record in read_metrics(unbroken) if record["kind"] == "train"]
    assert ours == pytest.approx(theirs[: len(ours)], rel=1e-3)
    assert len(ours) == 2
