"""Ranks form a mesh, replica x tower: who holds which share of which copy of the net, and over which groups they talk."""

import datetime
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from alexnet_dist.errors import UNREACHABLE, LostPeerError, RunFailed, Stopped, UserError
from alexnet_dist.parallel.crossing import Crossing
from alexnet_dist.parallel.failures import broken_connection, one_line, refusal
from alexnet_dist.parallel.gloo import shared_gloo
from alexnet_dist.parallel.ordered_sum import OrderedSum
from alexnet_dist.parallel.peers import LONG, SETUP_SECONDS, Peers, record_flight
from alexnet_dist.parallel.process import world_size

# What the user can mend, and one process alone may meet.
_MENDABLE = (UserError, *UNREACHABLE)


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


def default_processes(towers: int, device: str) -> int:
    """How many processes a net is started in: one a tower, or where GPUs are fewer the most that divide the towers and have a GPU
    each."""
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    return max(count for count in range(1, towers + 1) if towers % count == 0 and count <= (gpus or towers))


@dataclass(frozen=True)
class Mesh:
    """This process's place: its device, its replica and share, and the groups of its replica and of its share.

    `crossing` joins the processes of one replica in tower order over a group of its own; `tower_group` joins the same processes
    for collectives, `crops_group` for the exchange of crops, which goes on beside a step; `replica_group` joins the holders of
    the same share, whose gradients `over_replicas` adds over a group of its own. `host_group` joins all processes over gloo,
    for small CPU tensors that they agree on, `checkpoint_group` for the thread that writes checkpoints. `peers` says when one
    of them is lost.
    """

    layout: Layout
    rank: int
    device: torch.device
    crossing: Crossing
    tower_group: dist.ProcessGroup
    crops_group: dist.ProcessGroup
    replica_group: dist.ProcessGroup
    over_replicas: OrderedSum
    host_group: dist.ProcessGroup
    checkpoint_group: dist.ProcessGroup
    peers: Peers

    @property
    def replica(self) -> int:
        return self.rank // self.layout.shares

    @property
    def share(self) -> int:
        return self.rank % self.layout.shares

    def gather_rows(self, part: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to gather [n, ...] of every process of this replica -> [shares * n, ...] in tower order. What is returned waits
        for them, on a GPU the current stream does, and gives them."""
        whole = part.new_empty(self.layout.shares * part.shape[0], *part.shape[1:])
        parts = list(whole.chunk(self.layout.shares))
        work = dist.all_gather(parts, part.contiguous(), group=self.crops_group, async_op=True)
        assert work is not None

        def arrived() -> torch.Tensor:
            work.wait()
            return whole

        return arrived

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

    def from_everyone(self, value: Any) -> list[Any]:
        """The values of all ranks (any picklable objects), in their order, on every rank."""
        box: list[Any] = [None] * self.layout.processes
        dist.all_gather_object(box, value, group=self.host_group)
        return box

    def warm_up(self) -> None:
        """Let each group of the device's pass something, one after another: NCCL makes the connections of a group with its first
        messages, and those of two groups at a time may wait for each other."""
        for group in (self.tower_group, self.replica_group, self.crops_group):
            dist.all_reduce(torch.zeros(1, device=self.device), group=group)
        self.crossing.begin([torch.zeros(1, device=self.device)] * self.layout.shares).wait()
        self.crossing.read()
        self.over_replicas.begin(torch.zeros(self.layout.replicas, device=self.device))
        self.over_replicas.finish()


@contextmanager
def join_mesh(
    towers: int, device: torch.device, timeout: float, wire: torch.dtype | None = None, overlap: bool = True
) -> Iterator[Mesh]:
    """Join the processes that RANK and WORLD_SIZE name (one alone, where they are not set) and leave them at the end.

    `timeout` is how many seconds a peer may keep the others waiting once the steps have begun; `wire` and `overlap` are the
    crossing's.

    Raises:
        UserError: the world size does not fit the towers.
        LostPeerError: a connection to a peer broke; which one it was has been said.
        RunFailed: the processes cannot meet, or NCCL will not have them or their GPUs.
    """
    world = world_size()
    layout = plan_layout(world, towers)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
        record_flight()
    limit = datetime.timedelta(seconds=max(timeout, SETUP_SECONDS))
    store, rank = (dist.HashStore(), 0) if world == 1 else _meet(limit)
    store = _fresh_part(store, rank, world)
    peers = Peers(store, rank, world, timeout)
    try:
        gloo = "gloo" if cuda else shared_gloo()  # beside a GPU its threads are in nobody's way
        own = device if cuda else None  # NCCL's groups are made at once, and not by their first messages
        backend = "cpu:gloo,cuda:nccl" if cuda else gloo
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=LONG, device_id=own)
        yield (mesh := join_groups(layout, rank, device, peers, gloo, wire, overlap))
        peers.rest()
        dist.barrier(group=mesh.host_group)  # nobody leaves before all are done
    except Exception as error:
        if refused := refusal(error):
            peers.leave(failed=True)
            raise RunFailed(refused) from error
        if world > 1 and broken_connection(error):
            peers.explain(error)
            raise LostPeerError from error
        if isinstance(error, (*_MENDABLE, RunFailed)):
            error.said_by_another = not peers.first_to_tell()  # type: ignore[union-attr]  # as errors.py has it
        if isinstance(error, (*_MENDABLE, RunFailed, Stopped)):
            # A mistake may be seen by one process alone, of the others it makes no sense to go on.
            peers.leave(failed=isinstance(error, _MENDABLE))
        raise
    peers.leave(failed=False)
    dist.destroy_process_group()


def _meet(limit: datetime.timedelta) -> tuple[dist.Store, int]:
    """The store of the processes that RANK and WORLD_SIZE name, and this one's rank. Raises RunFailed."""
    try:
        store, rank, _ = next(dist.rendezvous("env://", timeout=limit))
    except dist.DistError as error:
        place = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise RunFailed(f"the processes cannot meet at {place} ({one_line(error)})") from error
    return store, rank


def check_place(layout: Layout, rank: int, spread: bool) -> None:
    """Raises UserError where the processes that hold one replica would stand on different nodes, though they need not: where each
    node has one, or with `spread`, they may."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", layout.processes))
    first = rank - int(os.environ.get("LOCAL_RANK", rank))
    if 1 < here < layout.processes and not spread and (here % layout.shares or first % layout.shares):
        raise UserError(
            f"the towers of a replica would stand on different nodes: start {layout.shares} processes on each node or a multiple "
            f"(here are {here}), with ranks counted node by node, or let maps cross between nodes with parallel.spread=true"
        )


def _fresh_part(store: dist.Store, rank: int, world: int) -> dist.Store:
    """A part of the store that no earlier start of these processes has written to.

    torchrun keeps one store for all its restarts, so that a process could find the address of one that has died. Each process
    greets rank 0 with a name used once and is answered with the name of the part.
    """
    if rank:
        greeting = uuid.uuid4().hex
        store.set(f"greeting/{rank}", greeting)
        name = store.get(f"answer/{greeting}").decode()
        store.set(f"joined/{name}/{rank}", "")
        return dist.PrefixStore(name, store)
    name = uuid.uuid4().hex
    awaited = list(range(1, world))
    begun = time.monotonic()
    while awaited:
        if time.monotonic() - begun > SETUP_SECONDS:
            raise RunFailed(f"{len(awaited)} of {world} processes have not come within {SETUP_SECONDS / 60:g} minutes")
        for other in awaited:
            if store.check([f"greeting/{other}"]):
                store.set(f"answer/{store.get(f'greeting/{other}').decode()}", name)
        awaited = [other for other in awaited if not store.check([f"joined/{name}/{other}"])]
        time.sleep(0.02)
    return dist.PrefixStore(name, store)


def join_groups(
    layout: Layout,
    rank: int,
    device: torch.device,
    peers: Peers,
    host_backend: str,
    wire: torch.dtype | None = None,
    overlap: bool = True,
) -> Mesh:
    """The mesh and its groups, of the processes that have met in torch's default group; `host_backend` is for CPU tensors."""
    shares = [list(range(r * layout.shares, (r + 1) * layout.shares)) for r in range(layout.replicas)]
    replicas = [list(range(share, layout.processes, layout.shares)) for share in range(layout.shares)]
    wanted = (shares, shares, shares, replicas, replicas)
    own_groups = [dist.new_subgroups_by_enumeration(ranks, timeout=LONG)[0] for ranks in wanted]
    own_groups += [dist.new_group(backend=host_backend, timeout=LONG) for _ in range(2)]
    groups = (group for group in own_groups if isinstance(group, dist.ProcessGroup))
    tower_group, crossing_group, crops_group, replica_group, sums_group, host_group, checkpoint_group = groups
    mesh = Mesh(
        layout=layout,
        rank=rank,
        device=device,
        crossing=Crossing(crossing_group, wire, overlap),
        tower_group=tower_group,
        crops_group=crops_group,
        replica_group=replica_group,
        over_replicas=OrderedSum(sums_group),
        host_group=host_group,
        checkpoint_group=checkpoint_group,
        peers=peers,
    )
    mesh.warm_up()
    return mesh
