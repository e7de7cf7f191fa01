"""Sums over processes have the bits of a fixed binary tree."""

import pytest
import torch
import torch.distributed as dist

from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.parallel.ordered_sum import OrderedSum, tree_sum
from tests.distributed.processes import run_processes

SHAPES = ((1,), (3,), (5, 7), (64, 33), (0,))


def _parts(slices: int) -> list[list[torch.Tensor]]:
    """Of each slice a tensor of each shape, of sizes so different that every order of adding has bits of its own."""
    generator = torch.Generator().manual_seed(0)
    sizes = [10.0 ** (number % 5) for number in range(slices)]
    return [[torch.randn(shape, generator=generator).exp() * size for shape in SHAPES] for size in sizes]


def _sums(slices: int) -> tuple[list[torch.Tensor], int]:
    with join_mesh(1, torch.device("cpu"), timeout=60) as mesh:
        parts = _parts(slices)
        own = parts[mesh.rank * slices // mesh.layout.replicas : (mesh.rank + 1) * slices // mesh.layout.replicas]
        group = dist.new_group()
        assert isinstance(group, dist.ProcessGroup)
        sums = OrderedSum(group)
        totals = [tree_sum(list(of_shape)) for of_shape in zip(*own, strict=True)]
        for total in totals:
            sums.begin(total)
        sums.finish()
        return totals, sums.sent_bytes


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_any_number_of_processes_gives_the_bits_of_one(processes: int) -> None:
    expected = [tree_sum(list(of_shape)) for of_shape in zip(*_parts(8), strict=True)]
    values = sum(total.numel() for total in expected)
    for totals, sent in run_processes(_sums, processes, 8):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(totals, expected, strict=True))
        # 2 (n - 1) / n of four bytes a value; halves of odd lengths differ by a value.
        assert abs(sent - 4 * values * 2 * (processes - 1) / processes) <= 4 * 2 * len(SHAPES) * processes


@pytest.mark.parametrize(("processes", "whole"), [(3, 2), (5, 4), (6, 4), (7, 4)])
def test_ranks_beyond_a_power_of_two_are_added_to_the_first_ones(processes: int, whole: int) -> None:
    first, beyond = _parts(processes)[:whole], _parts(processes)[whole:]
    for part, more in zip(first, beyond, strict=False):
        for tensor, other in zip(part, more, strict=True):
            tensor += other
    expected = [tree_sum(list(of_shape)) for of_shape in zip(*first, strict=True)]
    for totals, _ in run_processes(_sums, processes, processes):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(totals, expected, strict=True))


def test_another_order_of_addition_has_other_bits() -> None:
    for of_shape in list(zip(*_parts(8), strict=True))[2:4]:
        assert not torch.equal(tree_sum(list(of_shape)), sum(of_shape))
