"""Ranks form a mesh, replica x tower: who holds which share of which copy of the net, and over which groups they talk."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from alexnet_dist.errors import UserError
from alexnet_dist.parallel.crossing import Crossing


@dataclass(frozen=True)
class Layout:
    """`replicas` copies of the net, each held by `shares` processes."""

    replicas: int
    shares: int

    @property
    def processes(self) -> int:
        return self.replicas * self.shares


def plan_layout(processes: int, towers: int) -> Layout:
    """How a number of processes hold a net of so many towers.

    As many processes as towers, or a multiple, hold a tower each; fewer that divide the towers hold several each.

    Raises:
        UserError: neither fits; the sentence names the sizes near it that do.
    """
    if processes >= towers and processes % towers == 0:
        return Layout(processes // towers, towers)
    if processes >= 1 and towers % processes == 0:
        return Layout(1, processes)
    fitting = [n for n in range(1, 2 * max(processes, towers) + 1) if towers % n == 0 or n % towers == 0]
    sizes = ", ".join(map(str, fitting[:8]))
    raise UserError(
        f"{processes} processes do not fit a net of {towers} towers: start one of {sizes} (a divisor or a multiple of the towers)"
    )


@dataclass(frozen=True)
class Mesh:
    """This process's place: its device, its replica and share, and the groups of its replica and of its share.

    `crossing` joins the processes of one replica in tower order over a group of its own; `tower_group` joins the same
    processes for collectives, `training_group` and `validation_group` for the threads of the two feeds, which run ahead each in
    its own time; `replica_group` joins the holders of the same share. `host_group` joins all processes over gloo, for small CPU
    tensors that they agree on.
    """

    layout: Layout
    rank: int
    device: torch.device
    devices: DeviceMesh
    crossing: Crossing
    tower_group: dist.ProcessGroup
    training_group: dist.ProcessGroup
    validation_group: dist.ProcessGroup
    replica_group: dist.ProcessGroup
    host_group: dist.ProcessGroup

    @property
    def replica(self) -> int:
        return self.rank // self.layout.shares

    @property
    def share(self) -> int:
        return self.rank % self.layout.shares

    def gather_rows(self, part: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        """[n, ...] of every process of this replica -> [shares * n, ...] in tower order, over one of the feeds' groups."""
        whole = part.new_empty(self.layout.shares * part.shape[0], *part.shape[1:])
        dist.all_gather_into_tensor(whole, part.contiguous(), group=group)
        return whole

    def gather_columns(self, part: torch.Tensor) -> torch.Tensor:
        """[N, C] of every process of this replica -> [N, shares * C] in tower order; no gradient flows."""
        if self.layout.shares == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.layout.shares)]
        dist.all_gather(parts, part.contiguous(), group=self.tower_group)
        return torch.cat(parts, dim=1)

    def from_first(self, value: Any) -> Any:
        """Rank 0's value (any picklable object) on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        dist.barrier()


def pick_device(wanted: str, local_rank: int) -> torch.device:
    """`auto`, `cpu` or `cuda` -> the device of the node's `local_rank`-th process: a GPU of its own, or the CPU.

    Raises:
        UserError: CUDA is asked for where there is none, or there are more processes than GPUs.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device on this machine: use device=cpu or device=auto")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this node has no GPU of its own: {torch.cuda.device_count()} are visible; "
            "start fewer processes on the node, or use device=cpu"
        )
    return torch.device("cuda", local_rank)


def share_cores(shares: int) -> int:
    """How many of the cores that this process may run on fall to it when so many share them; at least one."""
    return max(1, len(os.sched_getaffinity(0)) // shares)


@contextmanager
def join_mesh(towers: int, device: torch.device, timeout: float) -> Iterator[Mesh]:
    """Join the processes that RANK and WORLD_SIZE name (one alone, where they are not set) and leave them at the end.

    `timeout` is how many seconds a peer may keep the others waiting.

    Raises:
        UserError: the world size does not fit the towers.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    layout = plan_layout(world, towers)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    limit = datetime.timedelta(seconds=timeout)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if world == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=limit)
    else:
        dist.init_process_group(backend, timeout=limit)
    rank = dist.get_rank()
    devices = init_device_mesh(device.type, (layout.replicas, layout.shares), mesh_dim_names=("replica", "tower"))
    pairs = [list(range(r * layout.shares, (r + 1) * layout.shares)) for r in range(layout.replicas)]
    own_groups = [dist.new_subgroups_by_enumeration(pairs, timeout=limit)[0] for _ in range(3)]
    crossing_group, training_group, validation_group = (group for group in own_groups if isinstance(group, dist.ProcessGroup))
    host_group = dist.new_group(backend="gloo", timeout=limit)
    assert isinstance(host_group, dist.ProcessGroup)
    yield Mesh(
        layout=layout,
        rank=rank,
        device=device,
        devices=devices,
        crossing=Crossing(crossing_group),
        tower_group=devices.get_group("tower"),
        training_group=training_group,
        validation_group=validation_group,
        replica_group=devices.get_group("replica"),
        host_group=host_group,
    )
    # Not after an error: a group whose peer is lost can keep the process waiting for it.
    dist.destroy_process_group()
