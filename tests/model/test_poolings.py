"""Poolings that round up as the authors' do: windows from the first pixel on, of which what lies in the map counts."""

import pytest
import torch
import torch.nn.functional as F

from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table


def pooled(maps: torch.Tensor, kind: str, size_x: int, stride: int) -> torch.Tensor:
    """Window by window: layer.py has outputsX = ceil((imgSize - start - sizeX) / stride) + 1 with start = 0."""
    size = maps.shape[-1]
    starts = range(0, (-(-(size - size_x) // stride) + 1) * stride, stride)
    rows = []
    for y in starts:
        windows = [maps[..., y : min(y + size_x, size), x : min(x + size_x, size)] for x in starts]
        rows.append(torch.stack([w.amax((-2, -1)) if kind == "max" else w.mean((-2, -1)) for w in windows], -1))
    return torch.stack(rows, -2)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_net_of_figure_1_is_that_of_layers_19pct(activation: str) -> None:
    net = Net(
        build_table(compose("train", ["model=figure1", f"model.operations.activation.kind={activation}"])["model"])
    ).double()
    net.initialise(1)
    with torch.no_grad():
        net.get_parameter("conv1.weight").mul_(100)  # or tanh would be linear here
    images = 100 * torch.randn(3, 3, 32, 32, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    neuron = getattr(torch, activation)
    x = images
    for name, kind in (("conv1", "max"), ("conv2", "avg"), ("conv3", "avg")):
        weight, bias = net.get_parameter(f"{name}.weight"), net.get_parameter(f"{name}.bias")
        x = pooled(neuron(F.conv2d(x, weight, bias, padding=2)), kind, 3, 2)
    expected = F.linear(x.flatten(1), net.get_parameter("fc10.weight"), net.get_parameter("fc10.bias"))
    assert [layer.out_size for layer in net.table.layers] == [16, 8, 4, 1]
    assert torch.allclose(torch.cat(net(images), 1), expected, rtol=1e-12, atol=0)
    deviations = [(layer.weight_std, layer.bias) for layer in net.table.layers]
    assert deviations == [(0.0001, 0), (0.01, 0), (0.01, 0), (0.01, 0)]  # initW


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 2, 32), (2, 2, 55), (2, 2, 11), (3, 3, 10), (4, 3, 9), (3, 2, 7)])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_a_pooling_that_rounds_up_window_by_window(kind: str, kernel: int, stride: int, size: int) -> None:
    rows = {"kind": "conv", "reads": "image", "filters": 3, "kernel": 1, "then": ["pool"], "weight_std": 1.0, "bias": 0}
    last = {"kind": "fc", "reads": "own", "filters": 1, "weight_std": "he", "bias": 0}
    pool = {"kind": f"{kind}_pool", "kernel": kernel, "stride": stride, "round": "up"}
    layers = {"conv": rows, "fc": last}
    net = Net(build_table({"towers": 1, "input": size, "operations": {"pool": pool}, "layers": layers})).double()
    net.initialise(0)
    handed_on: list[torch.Tensor] = []
    net.get_submodule("conv").register_forward_hook(lambda _layer, _inputs, outputs: handed_on.extend(outputs))
    images = torch.randn(2, 3, size, size, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    net(images)
    expected = pooled(F.conv2d(images, net.get_parameter("conv.weight")), kind, kernel, stride)
    assert torch.allclose(handed_on[0], expected, rtol=1e-12, atol=1e-12)
    assert net.table.layers[0].out_size == expected.shape[-1]
    assert net.table.layers[1].weight_std == pytest.approx((2 / (3 * expected.shape[-1] ** 2)) ** 0.5)
