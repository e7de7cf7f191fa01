"""Layers begun as another run's: the right ones, alone, and refused where they do not fit."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from alexnet_dist import export
from alexnet_dist import train as train_command
from alexnet_dist.checks import check_settings
from alexnet_dist.errors import UserError
from alexnet_dist.formats.layouts import from_torchvision, to_caffe
from alexnet_dist.formats.weights import read_layers
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.training.initial import choose_layers
from tests.commands import read_metrics, read_tensors, train

# A rate at which no weight moves by more than a float's last bit.
STILL = ("trainer.batch_size=16", "trainer.max_steps=1", "evaluation.views=1", "optimizer.lr=1e-30")


@pytest.fixture(scope="module")
def source(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    train(*STILL, f"data.root={few_images}", "seed=5", "run.dir=run", cwd=folder)
    return folder / "run"


def _initial(seed: int, *words: str) -> dict[str, torch.Tensor]:
    net = Net(build_table(compose("train", list(words))["model"]))
    net.initialise(seed)
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def _same(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(ours, expected, rtol=1e-7, atol=1e-25)


def test_layers_that_agree_are_taken_and_the_others_begin_anew(source: Path, few_images: Path, tmp_path: Path) -> None:
    narrow = "model.layers.fc7.filters=128"
    done = train(*STILL, narrow, f"data.root={few_images}", f"init_from={source}", "run.dir=run", cwd=tmp_path)
    checkpoint = source / "checkpoints" / "step-00000001"
    assert f"from {checkpoint}: conv1, conv2, conv3, conv4, conv5, fc6; begun anew: fc7, fc8" in done.stdout
    theirs, anew, ours = _initial(5), _initial(0, narrow), read_tensors(tmp_path / "run")
    for name, expected in anew.items():
        taken = not name.startswith(("fc7", "fc8"))
        assert _same(ours[f"net.{name}"], theirs[name] if taken else expected), name
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == [1], "the step count begins anew"


def test_of_a_list_only_those_are_taken_and_a_run_once_begun_goes_on_by_itself(
    source: Path, few_images: Path, tmp_path: Path
) -> None:
    rate = "model.operations.dropout.p=0.2"
    words = (*STILL, f"data.root={few_images}", f"init_from={source}", "init_layers=[conv2,fc7]", rate, "run.dir=run")
    done = train(*words, "parallel.processes=1", cwd=tmp_path)
    assert "conv2, fc7; begun anew: conv1, conv3, conv4, conv5, fc6, fc8" in done.stdout
    theirs, anew, ours = _initial(5), _initial(0), read_tensors(tmp_path / "run")
    theirs["fc7.weight"] *= 0.5 / 0.8  # in testing fc6's outputs are multiplied by 0.8 and no longer by 0.5
    for name, expected in anew.items():
        assert _same(ours[f"net.{name}"], theirs[name] if name.startswith(("conv2", "fc7")) else expected), name
    again = train(*words, cwd=tmp_path)
    assert "begun anew" not in again.stdout
    assert "resumed from run/checkpoints/step-00000001" in again.stdout


def test_fine_tuning_from_an_export_moves_all_but_the_frozen_layer(source: Path, few_images: Path, tmp_path: Path) -> None:
    export.run(compose("export", [f"checkpoint={source}", "format=safetensors", f"output={tmp_path / 'net.safetensors'}"]))
    words = ("experiment=finetune", "model=tiny", "data.size=64", "model.layers.fc8.filters=10", "trainer.batch_size=16")
    more = ("trainer.max_steps=2", "trainer.log_every=1", "evaluation.views=1", "data.statistics_images=200", "optimizer.lr=0.01")
    done = train(*words, *more, f"data.root={few_images}", "init_from=net.safetensors", "run.dir=run", cwd=tmp_path)
    assert "from net.safetensors: conv1, conv2, conv3, conv4, conv5, fc6, fc7; begun anew: fc8" in done.stdout
    theirs, ours = read_tensors(source), read_tensors(tmp_path / "run")
    assert ours["net.fc8.weight"].shape == (10, 256)
    other = build_table(compose("train", ["model.operations.dropout.p=0.2"])["model"])
    rescaled = read_layers(tmp_path / "net.safetensors", other, "init_from")
    assert torch.equal(rescaled["fc7.weight"], theirs["net.fc7.weight"] * (0.5 / 0.8))
    assert torch.equal(rescaled["fc6.weight"], theirs["net.fc6.weight"])
    for name in ("conv1.weight", "conv1.bias"):
        assert torch.equal(ours[f"net.{name}"], theirs[f"net.{name}"]), "frozen"
        assert not ours[f"momentum.{name}"].any()
    for name in ("conv2.weight", "fc7.weight"):
        moved = (ours[f"net.{name}"] - theirs[f"net.{name}"]).norm() / theirs[f"net.{name}"].norm()
        assert 0 < moved < 0.2, name


def test_torchvision_s_and_caffe_s_layers_with_another_last_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = alexnet(weights=None, num_classes=7).state_dict()
    torch.save(theirs, tmp_path / "alexnet.pth")
    table = build_table(compose("train", ["model=torchvision"])["model"])
    source, taken = choose_layers(str(tmp_path / "alexnet.pth"), None, table)
    assert taken == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    parameters = read_layers(source, table, "init_from")
    below = {name: array for name, array in theirs.items() if "classifier.6" not in name}
    whole = from_torchvision(alexnet(weights=None).state_dict() | below, table)
    for layer in taken:
        assert torch.equal(parameters[f"{layer}.weight"], whole[f"{layer}.weight"]), layer

    weight = theirs["features.0.weight"]
    for other in (weight[:, :1], weight[:, :2]):  # a net of grey levels, or of what else: three scales make it fit nothing
        torch.save(theirs | {"features.0.weight": other.contiguous()}, tmp_path / "other.pth")
        assert choose_layers(str(tmp_path / "other.pth"), None, table)[1] == taken[1:]
    np.savez(tmp_path / "flat.npz", **{"conv1.weight": np.zeros(5), "conv2.bias": np.zeros(5)})
    with pytest.raises(UserError, match=r"no layer that agrees.*conv1.weight \[5\]"):
        choose_layers(str(tmp_path / "flat.npz"), None, table)

    table = build_table(compose("train", ["model=tiny"])["model"])
    net = Net(build_table(compose("train", ["model=tiny", "model.layers.fc8.filters=12"])["model"]))
    net.initialise(3)
    ours = {name: parameter.detach() for name, parameter in net.named_parameters()}
    np.savez(tmp_path / "net.npz", **{name: array.numpy() for name, array in to_caffe(ours, net.table).items()})
    source, taken = choose_layers(str(tmp_path / "net.npz"), None, table)
    assert taken == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    for name, array in read_layers(source, table, "init_from").items():
        assert torch.equal(array, ours[name]), name


def test_fine_tuning_needs_something_to_begin_with() -> None:
    with pytest.raises(UserError, match="init_from is not: name the run or the weights"):
        check_settings(compose("train", ["experiment=finetune", "data.root=images"]))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["init_from=nowhere"], ["init_from=nowhere", "no checkpoint"]),
        (["init_from=FILE"], ["init_from=", "net.txt cannot be read", "safetensors, torch's .pt or .pth"]),
        (["init_from=RESNET"], ["resnet.pth holds layer1.0.weight", "neither conv1.weight as Caffe has it nor torchvision's"]),
        (["init_layers=[conv1]"], ["init_layers", "init_from"]),
        (["init_from=SOURCE", "resume=SOURCE"], ["resume", "init_from", "give one"]),
        (["init_from=SOURCE", "init_layers=[conv9]"], ["conv9", "conv1, conv2"]),
        (
            ["init_from=SOURCE", "init_layers=[conv2]", "model.layers.conv1.filters=64"],
            ["conv2", "[64, 32, 5, 5] in this model", "[64, 16, 5, 5] there"],
        ),
        (["init_from=SOURCE", "model=cifar10"], ["no layer", "it holds conv1.weight [32, 3, 7, 7]", "init_from"]),
        (["init_from=SOURCE", "init_layers=[]"], ["init_layers"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    words: list[str], parts: list[str], source: Path, few_images: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    (tmp_path / "net.txt").write_text("no weights")
    torch.save({"layer1.0.weight": torch.zeros(64, 64, 3, 3)}, tmp_path / "resnet.pth")
    places = {"SOURCE": source, "FILE": tmp_path / "net.txt", "RESNET": tmp_path / "resnet.pth"}
    given = [re.sub("SOURCE|FILE|RESNET", lambda found: str(places[found[0]]), word) for word in words]
    config: dict[str, Any] = compose("train", [f"data.root={few_images}", f"run.dir={run_dir}", "tracking=none", *given])
    with pytest.raises(UserError) as refused:
        train_command.prepare_start(config)
    for part in parts:
        assert part in str(refused.value)
    assert not run_dir.exists()
