"""The activity of a step, for any layout, are those of a plain computation."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.parallel.process import set_precision
from alexnet_dist.training.activity import SATURATED, Activity
from alexnet_dist.training.step import loss_of
from tests.distributed.processes import run_processes

TABLE = {
    "name": "small",
    "towers": 2,
    "input": 8,
    "operations": {
        "relu": {"kind": "relu"},
        "tanh": {"kind": "tanh"},
        "sigmoid": {"kind": "sigmoid"},
        "pool": {"kind": "max_pool", "kernel": 2, "stride": 2},
    },
    "layers": {
        "conv1": {
            "kind": "conv",
            "reads": "image",
            "filters": 8,
            "kernel": 3,
            "then": ["relu", "pool"],
            "weight_std": 0.01,
            "bias": 0,
        },
        "fc2": {"kind": "fc", "reads": "all", "filters": 12, "then": ["tanh"], "weight_std": 1.5, "bias": 0},
        "fc3": {"kind": "fc", "reads": "all", "filters": 10, "then": ["sigmoid"], "weight_std": 2, "bias": 0},
        "fc4": {"kind": "fc", "reads": "all", "filters": 4, "then": [], "weight_std": 0.5, "bias": 0},
    },
}
IMAGES = 8
# Filter 1 (of tower 0) and filters 5 and 6 (of tower 1) of conv1 are dead.
DEAD = (1, 5, 6)


def _parameters() -> dict[str, torch.Tensor]:
    net = Net(build_table(TABLE))
    net.initialise(3)
    for filter_number in DEAD:
        net.get_submodule("conv1").bias.data[filter_number] = -1e4
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 60 * torch.randn(IMAGES, 3, 8, 8, generator=generator), torch.randint(4, (IMAGES,), generator=generator)


def _activity() -> tuple[dict[str, Any], bool]:
    """What a process reads after a watched step, and whether an unwatched step is then left alone."""
    cpu = torch.device("cpu")
    with join_mesh(2, cpu, timeout=60) as mesh:
        net = Net(build_table(TABLE), mesh.crossing)
        for name, parameter in net.named_parameters():
            whole = _parameters()[name]
            parameter.data.copy_(whole[net.share.rows(len(whole))])
        images, labels = (tensor.chunk(mesh.layout.replicas)[mesh.replica] for tensor in _batch())
        activity = Activity(net, mesh)

        def step() -> None:
            loss, _ = loss_of(net, images, labels, DropoutKey(0, 0), mesh, set_precision("fp32", cpu))
            (loss / mesh.layout.replicas).backward()

        with activity.watching():
            step()
        first = activity.read()
        step()
        unwatched = all(layer.watch is None and not layer._forward_hooks for layer in net.children())
        return first, unwatched


def _expected() -> dict[str, dict[str, list[float]]]:
    parameters = _parameters()
    images, labels = _batch()
    relu = F.relu(F.conv2d(images, parameters["conv1.weight"].requires_grad_(), parameters["conv1.bias"]))
    outputs = {"conv1": F.max_pool2d(relu, 2)}
    outputs["fc2"] = torch.tanh(F.linear(outputs["conv1"].flatten(1), parameters["fc2.weight"], parameters["fc2.bias"]))
    outputs["fc3"] = torch.sigmoid(F.linear(outputs["fc2"], parameters["fc3.weight"], parameters["fc3.bias"]))
    outputs["fc4"] = F.linear(outputs["fc3"], parameters["fc4.weight"], parameters["fc4.bias"])
    for output in outputs.values():
        output.retain_grad()
    F.cross_entropy(outputs["fc4"], labels).backward()

    def towers(values: torch.Tensor) -> list[float]:
        return [half.double().mean().item() for half in values.chunk(2, dim=1)]

    zero = [0.0, 0.0]
    figures = {
        name: {
            "activation": [part.double().square().mean().sqrt().item() for part in output.detach().chunk(2, dim=1)],
            "gradient": [part.double().square().mean().sqrt().item() for part in output.grad.chunk(2, dim=1)],
            "saturated": zero,
            "dead": zero,
        }
        for name, output in outputs.items()
    }
    figures["conv1"]["dead"] = [1 / 4, 2 / 4]
    figures["fc2"]["saturated"] = towers(outputs["fc2"].abs() > SATURATED)
    figures["fc3"]["saturated"] = towers((outputs["fc3"] > (1 + SATURATED) / 2) | (outputs["fc3"] < (1 - SATURATED) / 2))
    assert all(0 < share < 1 for name in ("fc2", "fc3") for share in figures[name]["saturated"])
    return figures


@pytest.mark.parametrize("processes", [1, 4])
def test_activity_are_those_of_a_plain_net(processes: int) -> None:
    expected = _expected()
    for activity, unwatched in run_processes(_activity, processes):
        assert unwatched
        assert list(activity) == list(expected)
        for name, figures in expected.items():
            assert activity[name] == {key: pytest.approx(values, rel=1e-5) for key, values in figures.items()}, name
