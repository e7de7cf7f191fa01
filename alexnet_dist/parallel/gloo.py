"""gloo whose groups share a process's gloo devices: one for each interface, as a rule one.

torch gives each group devices of its own, whose threads wake up a hundred times a second even when nothing comes. A process
of the mesh has seven or eight, and on a CPU they take their time from the arithmetic.

A device's thread that finds its connection in use asks again at once, and again. Woken by the answer to a message, it could take
the core from the very thread that was sending and held the connection, and spin for the rest of its turn, some 4 ms. So it is
scheduled as a batch job: that interrupts nobody and runs where a core is idle or the others have had their turn.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    with _new_threads_interrupt_nobody():
        if interfaces:
            return [ProcessGroupGloo.create_device(interface=interface) for interface in interfaces.split(",")]
        return [ProcessGroupGloo.create_default_device()]


@contextmanager
def _new_threads_interrupt_nobody() -> Iterator[None]:
    """Threads that this one starts in here are batch jobs, which is inherited, unless it has a class of its own itself."""
    policy = os.sched_getscheduler(0)
    if policy == os.SCHED_OTHER:
        with suppress(OSError):  # a container may forbid it: then they are threads as others are
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, os.sched_param(0))


def _create(options: Any, _: object) -> ProcessGroupGloo:
    own = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # the stubs lack it
    own._devices, own._threads, own._timeout = _devices(), 2 * len(_devices()), options.timeout  # threads as torch has them
    own.group_name, own.global_ranks_in_group = options.group_id, options.global_ranks_in_group  # for the flight recorder
    return ProcessGroupGloo(options.store, options.group_rank, options.group_size, own)
