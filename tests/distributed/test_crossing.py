"""Gradients through a crossing, in double precision, between real processes."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.autograd import gradcheck

from alexnet_dist.parallel.mesh import join_mesh
from tests.distributed.processes import run_processes


class _OwnPart(torch.autograd.Function):
    """The whole, alike on every process -> this process's part; the gradients of all parts, joined, on the way back."""

    @staticmethod
    def forward(ctx, whole, mesh):
        ctx.mesh = mesh
        return whole.chunk(mesh.layout.shares, dim=1)[mesh.share].clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.mesh.gather_columns(gradient.flatten(2).flatten(1)).reshape(
            gradient.shape[0], -1, *gradient.shape[2:]
        ), None


class _SumOverTowers(torch.autograd.Function):
    """One scalar a process -> their sum on every process, whose gradient each takes once."""

    @staticmethod
    def forward(ctx, value, group):
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def _check(processes: int) -> bool:
    with join_mesh(processes, torch.device("cpu"), timeout=60) as mesh:
        generator = torch.Generator().manual_seed(3)
        whole = torch.randn(2, 2 * processes, 2, 2, dtype=torch.double, generator=generator, requires_grad=True)
        # Every process weighs what it reads in its own way, so that what comes back differs from sender to sender.
        weights = torch.randn(processes, *whole.shape, dtype=torch.double, generator=generator)[mesh.share]

        def crossed(values: torch.Tensor) -> torch.Tensor:
            part = _OwnPart.apply(values, mesh)
            everything = mesh.crossing(part**2)
            return _SumOverTowers.apply((everything**3 * weights).sum(), mesh.tower_group)

        return gradcheck(crossed, whole, nondet_tol=0.0)


@pytest.mark.parametrize("processes", [2, 4])
def test_gradients_through_a_crossing_pass_gradcheck(processes: int) -> None:
    assert run_processes(_check, processes, processes) == [True] * processes


def _cross_once(channels: int) -> tuple[torch.Tensor, int]:
    with join_mesh(2, torch.device("cpu"), timeout=60) as mesh:
        part = torch.full((3, channels, 1, 1), float(mesh.share))
        return mesh.crossing(part), mesh.crossing.read()[0]


def test_parts_stand_in_tower_order_and_bytes_are_counted() -> None:
    expected = torch.cat([torch.zeros(3, 5, 1, 1), torch.ones(3, 5, 1, 1)], dim=1)
    for whole, sent in run_processes(_cross_once, 2, 5):
        assert torch.equal(whole, expected)
        assert sent == 3 * 5 * 4


def _devices_of_gloo(interfaces: str | None) -> int:
    """How many wait for messages in this process: each has a thread and an epoll descriptor, and the store has one in rank 0."""
    if interfaces:
        os.environ["GLOO_SOCKET_IFNAME"] = interfaces
    with join_mesh(2, torch.device("cpu"), timeout=60) as mesh:
        mesh.crossing(torch.zeros(1, 1, 1, 1))
        descriptors = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
        threads = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
        return sum(path.endswith("anon_inode:[eventpoll]") for path in descriptors) - threads.count("pt_tcpstore_uv\n")


@pytest.mark.parametrize(("interfaces", "devices"), [(None, 1), ("lo", 1), ("lo,lo", 2)])
def test_all_groups_of_a_process_share_the_devices_of_gloo(interfaces: str | None, devices: int) -> None:
    assert run_processes(_devices_of_gloo, 2, interfaces) == [devices] * 2
