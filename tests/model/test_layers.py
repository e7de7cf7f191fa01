"""Norms against torch's and the formulas, dropout's masks, and weights that do not depend on the share."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

from alexnet_dist.kernels.dropout import DropoutKey, keep_mask
from alexnet_dist.kernels.norms import response_norm, spatial_norm
from alexnet_dist.kernels.steps import Step, by_torch
from alexnet_dist.kernels.tail import empty_maps, lies_in_pixels
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.products import together
from alexnet_dist.model.table import build_table

CPU = torch.device("cpu")


def test_the_response_norm_is_torch_s_to_the_bit_and_channels_last_to_rounding() -> None:
    maps = 40 * torch.randn(3, 48, 9, 9, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.LocalResponseNorm(5, 1e-4, 0.75, 2)(maps)
    assert torch.equal(response_norm(maps, 5, 1e-4, 0.75, 2), expected)
    last = maps.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(response_norm(last, 5, 1e-4, 0.75, 2), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("maps", [1, 2, 7])
def test_the_norms_gradients(maps: int) -> None:
    x = torch.randn(2, maps, 6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert gradcheck(lambda x: response_norm(x, 5, 0.3, 0.75, 2), x)
    assert gradcheck(lambda x: spatial_norm(x, 5, 0.3, 0.75, 1), x)


def test_the_spatial_norm_follows_its_formula() -> None:
    x = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(3))
    normed = spatial_norm(x, 5, 0.5, 0.75, 1)
    window = (x[1, 2, 1:6, 2:7] ** 2).sum()  # around pixel (3, 4)
    corner = (x[0, 0, :3, :3] ** 2).sum()  # around pixel (0, 0): what lies outside is zero
    assert normed[1, 2, 3, 4] == pytest.approx((x[1, 2, 3, 4] / (1 + 0.5 / 25 * window) ** 0.75).item(), rel=1e-5)
    assert normed[0, 0, 0, 0] == pytest.approx((x[0, 0, 0, 0] / (1 + 0.5 / 25 * corner) ** 0.75).item(), rel=1e-5)


def test_a_mask_is_the_same_for_any_share_and_any_part_of_the_batch() -> None:
    whole = keep_mask(DropoutKey(1, 2).of(5, 0), 64, 100, 0.5, CPU)
    part = keep_mask(DropoutKey(1, 2, first_row=16).of(5, 50), 8, 50, 0.5, CPU)
    assert torch.equal(whole[16:24, 50:], part)


def test_masks_drop_the_share_they_should_and_differ() -> None:
    masks = [keep_mask(DropoutKey(seed, step).of(layer, 0), 256, 512, 0.3, CPU) for seed, step, layer in
             [(0, 0, 5), (1, 0, 5), (0, 1, 5), (0, 0, 6)]]  # fmt: skip
    for mask in masks:
        assert mask.float().mean().item() == pytest.approx(0.7, abs=0.005)
        # Neither rows nor columns lean to one side: five standard deviations of a mean of n fair draws.
        for dimension, draws in ((0, 256), (1, 512)):
            assert (mask.float().mean(dim=dimension) - 0.7).abs().max() < 5 * (0.21 / draws) ** 0.5
    for i, first in enumerate(masks):
        for second in masks[i + 1 :]:
            assert (first == second).float().mean().item() == pytest.approx(0.7**2 + 0.3**2, abs=0.01)


def test_behind_maps_single_units_are_dropped_whatever_the_share() -> None:
    maps, step = torch.ones(4, 6, 5, 5), Step(dropout=0.5)
    whole = by_torch(maps, step, DropoutKey(1, 2).of(3, 0))
    part = by_torch(maps[1:3, 2:4], step, DropoutKey(1, 2, first_row=1).of(3, 2))
    assert torch.equal(whole[1:3, 2:4], part)
    assert set(whole.unique().tolist()) == {0, 1}
    means = whole.mean(dim=(2, 3))
    assert ((means > 0) & (means < 1)).all()


def test_testing_scales_instead_of_dropping() -> None:
    table = build_table(compose("train", ["model=tiny", "model.operations.dropout.p=0"])["model"])
    dropped = build_table(compose("train", ["model=tiny"])["model"])
    plain, net = Net(table), Net(dropped)
    plain.initialise(0)
    net.load_state_dict(plain.state_dict())
    with torch.no_grad():
        net.fc7.weight *= 2  # undoes the halved outputs of fc6
        net.fc8.weight *= 2
    images = torch.randn(4, 3, 56, 56, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(torch.cat(net(images), 1), torch.cat(plain(images), 1), rtol=1e-4, atol=1e-5)


def test_a_share_holds_its_rows_of_the_whole_net() -> None:
    table = build_table(compose("train", ["model=tiny", "model.towers=4"])["model"])
    whole = Net(table)
    whole.initialise(3)
    for index, size in ((1, 2), (3, 4)):
        crossing: Any = SimpleNamespace(index=index, size=size)
        net = Net(table, crossing)
        net.initialise(3)
        for (name, ours), theirs in zip(net.named_parameters(), whole.parameters(), strict=True):
            assert torch.equal(ours, theirs[net.share.rows(len(theirs))]), name
    other = Net(table)
    for seed in (4, 3 + 2**26):
        other.initialise(seed)
        assert not torch.equal(other.conv1.weight, whole.conv1.weight)


@pytest.mark.parametrize("side", [1, 5])
def test_the_towers_maps_that_an_operation_made_at_once_are_known_to_lie_together(side: int) -> None:
    made = empty_maps(torch.randn(2, 8, side, side), [])
    assert lies_in_pixels(made)
    assert together(made.chunk(2, dim=1)) is made


def test_initial_weights_have_the_table_s_deviation() -> None:
    table = build_table(compose("train", ["model=net145"])["model"])
    net = Net(table)
    net.initialise(0)
    for layer in table.layers:
        weight, bias = net.get_submodule(layer.name).parameters()
        assert weight.std().item() == pytest.approx(layer.weight_std, rel=0.02), layer.name
        assert (bias == layer.bias).all(), layer.name
