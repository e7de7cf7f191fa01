"""The step of GPUs taken without one: on tensors that hold nothing (meta), among processes that are not there.

A tensor on the wrong device raises there, and what the host would read of the device is counted.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from alexnet_dist.bench.count import count_step, meta_as_gpu
from alexnet_dist.bench.tally import Count
from alexnet_dist.data.views import Preprocess
from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table, build_table
from alexnet_dist.parallel.mesh import Layout
from alexnet_dist.training.step import Step
from tests.forked import run_forked

LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


def table(model: str = "tiny") -> Table:
    return build_table(compose("train", [f"model={model}"])["model"])


def synchronisations(counts: dict[str, Count]) -> int:
    return sum(count["synchronisations"] for count in counts.values())


@pytest.mark.parametrize("layout", [Layout(1, 1), Layout(1, 2), Layout(2, 2)], ids=["one process", "towers", "replicas"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_stays_on_its_device_and_the_host_waits_for_nothing(layout: Layout, precision: str) -> None:
    for rank in range(layout.processes):
        counts = count_step(table(), precision, 16, layout, native=True, rank=rank)
        assert synchronisations(counts) == 0
        parts = [f"{layer} {way}" for layer in LAYERS for way in ("forward", "backward")]
        assert {"preprocessing", "loss", "update", *parts} <= set(counts)


def test_slices_stay_on_the_device_too() -> None:
    assert synchronisations(count_step(table(), "fp32", 16, Layout(2, 1), True, slices=4)) == 0


def test_a_planted_read_on_the_host_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    mean = Step._mean

    def read(self: Step, losses: list[torch.Tensor]) -> torch.Tensor:
        assert losses[0].item() > 0
        return mean(self, losses)

    monkeypatch.setattr(Step, "_mean", read)
    assert synchronisations(count_step(table(), "bf16", 16, Layout(1, 1), True)) == 1


@pytest.mark.parametrize("plant", ["added", "copied"])
def test_a_planted_tensor_of_the_host_s_is_found(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_training = Preprocess.of_training

    def planted(self: Preprocess, *arguments: Any) -> torch.Tensor:
        images, of_host = of_training(self, *arguments), torch.ones(3, 1, 1)
        return images + (of_host if plant == "added" else of_host.to(images.device))

    monkeypatch.setattr(Preprocess, "of_training", planted)
    if plant == "added":
        with pytest.raises(RuntimeError, match="not on the expected device"):
            count_step(table(), "bf16", 16, Layout(1, 1), True)
    else:
        assert synchronisations(count_step(table(), "bf16", 16, Layout(1, 1), True)) == 1


def test_the_forward_pass_runs_on_a_cuda_device_that_is_fake() -> None:
    with FakeTensorMode(), torch.device("cuda"), meta_as_gpu("bf16"):
        net = Net(table(), native=True)
        images, step = torch.empty(4, 3, 56, 56), torch.zeros((), dtype=torch.int64)
        logits = net(images, DropoutKey(0, step))
        assert {part.device.type for part in logits} == {"cuda"}
        assert {part.dtype for part in logits} == {torch.bfloat16}
        with pytest.raises(RuntimeError, match="device"):
            logits[0] + torch.ones(4, 4, device="cpu")
        with pytest.raises(DataDependentOutputException):
            logits[0].sum().item()


def test_a_tower_s_step_of_the_paper_s_net_is_ninety_launches_and_sixteen_megabytes_at_most(tmp_path: Path) -> None:
    words = ("model=paper", "precision=bf16", "batch_size=128", "device=cuda", "format=json")
    done = run_forked("bench", "count", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["synchronisations"] == 0
    assert counted["launches"] <= 90
    assert counted["bytes_per_image"] <= 16e6
    assert list(counted["layers"]) == ["preprocessing", *LAYERS, "loss", "update"]
    for figure in ("launches", "synchronisations"):
        assert sum(layer[figure] for layer in counted["layers"].values()) == counted[figure]
    assert counted["layers"]["update"]["launches"] == 1
