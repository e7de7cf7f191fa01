"""A mesh of processes that are not there, around tensors that hold nothing: to see what a step does without doing it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore, _create_fake_pg

from alexnet_dist.parallel.mesh import Layout, Mesh, join_groups
from alexnet_dist.parallel.peers import Peers

_BACKEND = "imagined"


@contextmanager
def imagined_mesh(layout: Layout, rank: int, device: torch.device) -> Iterator[Mesh]:
    """The mesh as `rank` has it: messages and sums go nowhere and are done at once. Within it no other mesh can be joined."""
    if _BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(_BACKEND, _create_fake_pg, extended_api=True, devices=["cpu", "cuda", "meta"])
    peers = Peers(dist.HashStore(), rank, world=1, timeout=60)
    dist.init_process_group(_BACKEND, store=FakeStore(), rank=rank, world_size=layout.processes)
    try:
        yield join_groups(layout, rank, device, peers, host_backend=_BACKEND)
    finally:
        dist.destroy_process_group()
