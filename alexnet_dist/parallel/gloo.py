"""gloo whose groups share a process's gloo devices: one for each interface, as a rule one.

torch gives each group devices of its own, whose threads wake up a hundred times a second even when nothing comes. A process
of the mesh has seven or eight, and on a CPU they take their time from the arithmetic.
"""

import functools
import os
from typing import Any

import torch.distributed as dist
from torch.distributed import ProcessGroupGloo

NAME = "shared_gloo"


def shared_gloo() -> str:
    """What torch.distributed takes as `backend` for CPU tensors."""
    if NAME not in dist.Backend.backend_list:
        dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu"])
    return NAME


@functools.cache
def _devices() -> list[ProcessGroupGloo.Device]:
    """One for each interface that GLOO_SOCKET_IFNAME lists; without it that of the host's name, as torch does."""
    interfaces = os.environ.get("GLOO_SOCKET_IFNAME")
    if interfaces:
        return [ProcessGroupGloo.create_device(interface=interface) for interface in interfaces.split(",")]
    return [ProcessGroupGloo.create_default_device()]


def _create(options: Any, _: object) -> ProcessGroupGloo:
    own = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # the stubs lack it
    own._devices, own._threads, own._timeout = _devices(), 2 * len(_devices()), options.timeout  # threads as torch has them
    own.group_name, own.global_ranks_in_group = options.group_id, options.global_ranks_in_group  # for the flight recorder
    return ProcessGroupGloo(options.store, options.group_rank, options.group_size, own)
