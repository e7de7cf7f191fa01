"""Layers begun as another run's: the right ones, alone, and refused where they do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_dist import train as train_command
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from tests.commands import read_metrics, read_tensors, train

# A rate at which no weight moves by more than a float's last bit.
STILL = ("trainer.batch_size=16", "trainer.max_steps=1", "evaluation.views=1", "optimizer.lr=1e-30")


@pytest.fixture(scope="module")
def source(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    train(*STILL, f"data.root={drawn_images}", "seed=5", "run.dir=run", cwd=folder)
    return folder / "run"


def _initial(seed: int, *words: str) -> dict[str, torch.Tensor]:
    net = Net(build_table(compose("train", list(words))["model"]))
    net.initialise(seed)
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def _same(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(ours, expected, rtol=1e-7, atol=1e-25)


def test_layers_that_agree_are_taken_and_the_others_begin_anew(source: Path, drawn_images: Path, tmp_path: Path) -> None:
    narrow = "model.layers.fc7.filters=128"
    done = train(*STILL, narrow, f"data.root={drawn_images}", f"init_from={source}", "run.dir=run", cwd=tmp_path)
    checkpoint = source / "checkpoints" / "step-00000001"
    assert f"from {checkpoint}: conv1, conv2, conv3, conv4, conv5, fc6; begun anew: fc7, fc8" in done.stdout
    theirs, anew, ours = _initial(5), _initial(0, narrow), read_tensors(tmp_path / "run")
    for name, expected in anew.items():
        taken = not name.startswith(("fc7", "fc8"))
        assert _same(ours[f"net.{name}"], theirs[name] if taken else expected), name
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == [1], "the step count begins anew"


def test_of_a_list_only_those_are_taken_and_a_run_once_begun_goes_on_by_itself(
    source: Path, drawn_images: Path, tmp_path: Path
) -> None:
    words = (*STILL, f"data.root={drawn_images}", f"init_from={source}", "init_layers=[conv2]", "run.dir=run")
    done = train(*words, "parallel.processes=1", cwd=tmp_path)
    assert "conv2; begun anew: conv1, conv3, conv4, conv5, fc6, fc7, fc8" in done.stdout
    theirs, anew, ours = _initial(5), _initial(0), read_tensors(tmp_path / "run")
    for name, expected in anew.items():
        assert _same(ours[f"net.{name}"], theirs[name] if name.startswith("conv2") else expected), name
    again = train(*words, cwd=tmp_path)
    assert "begun anew" not in again.stdout
    assert "resumed from run/checkpoints/step-00000001" in again.stdout


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["init_from=nowhere"], ["init_from=nowhere", "no checkpoint"]),
        (["init_layers=[conv1]"], ["init_layers", "init_from"]),
        (["init_from=SOURCE", "resume=SOURCE"], ["resume", "init_from", "give one"]),
        (["init_from=SOURCE", "init_layers=[conv9]"], ["conv9", "conv1, conv2"]),
        (
            ["init_from=SOURCE", "init_layers=[conv2]", "model.layers.conv1.filters=64"],
            ["conv2", "[64, 32, 5, 5] in this model", "[64, 16, 5, 5] there"],
        ),
        (["init_from=SOURCE", "model=cifar10"], ["no layer", "init_from"]),
        (["init_from=SOURCE", "init_layers=[]"], ["init_layers"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    words: list[str], parts: list[str], source: Path, drawn_images: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    given = [word.replace("SOURCE", str(source)) for word in words]
    config: dict[str, Any] = compose("train", [f"data.root={drawn_images}", f"run.dir={run_dir}", "tracking=none", *given])
    with pytest.raises(UserError) as refused:
        train_command.prepare_start(config, None)
    for part in parts:
        assert part in str(refused.value)
    assert not run_dir.exists()
