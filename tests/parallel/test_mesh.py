"""Where the processes of a replica may stand, and how their threads are scheduled."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from alexnet_dist.errors import RunFailed, UserError
from alexnet_dist.parallel.mesh import check_place, default_processes, join_mesh, plan_layout
from alexnet_dist.parallel.process import pick_device
from tests.distributed.processes import run_processes


def _refused(
    processes: int, towers: int, rank: int, local_rank: int, here: int, monkeypatch: pytest.MonkeyPatch, spread: bool = False
) -> bool:
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    try:
        check_place(plan_layout(processes, towers), rank, spread)
    except UserError:
        return True
    return False


@pytest.mark.parametrize(
    ("towers", "nodes", "refused"),
    [
        (2, (3, 3), True),  # the second replica would have a tower on each node
        (2, (1, 1), False),  # they can stand nowhere else
        (4, (1, 1, 1, 1), False),
        (2, (2, 2), False),
        (2, (4, 2), False),
        (2, (3,), None),
        (2, (6,), False),
        (4, (2, 2), True),  # one replica of four towers
        (4, (4, 8), False),
        (2, (1,), False),
    ],
)
def test_the_towers_of_a_replica_must_stand_on_one_node(
    towers: int, nodes: tuple[int, ...], refused: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [(local_rank, here) for here in nodes for local_rank in range(here)]
    if refused is None:
        with pytest.raises(UserError, match="3 processes do not fit a net of 2 towers"):
            plan_layout(len(places), towers)
        return
    answers = [_refused(len(places), towers, rank, *place, monkeypatch) for rank, place in enumerate(places)]
    assert any(answers) == refused


def test_ranks_dealt_out_to_the_nodes_in_turn_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(0, 2), (0, 2), (1, 2), (1, 2)]  # srun --distribution=cyclic
    assert any(_refused(4, 2, rank, *place, monkeypatch) for rank, place in enumerate(places))


@pytest.mark.parametrize(("towers", "gpus", "processes"), [(4, 3, 2), (4, 8, 4), (2, 0, 2), (3, 2, 1)])
def test_as_many_processes_as_divide_the_towers_and_have_a_gpu(
    towers: int, gpus: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert default_processes(towers, "auto") == processes
    assert default_processes(towers, "cpu") == towers
    plan_layout(processes, towers)


def test_a_process_takes_the_one_gpu_that_slurm_lets_it_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("SLURM_GPUS_PER_TASK", raising=False)
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert pick_device("cuda", 0) == torch.device("cuda", 0)
    with pytest.raises(UserError, match="process 1 of this node has no GPU of its own: 1 are visible"):
        pick_device("cuda", 1)
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    assert pick_device("cuda", 1) == torch.device("cuda", 0)
    monkeypatch.setenv("SLURM_LOCALID", "0")  # one task, which has started two processes
    with pytest.raises(UserError, match="process 1 of this node has no GPU of its own: 1 are visible"):
        pick_device("cuda", 1)


def test_processes_that_cannot_meet_are_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port)):
            monkeypatch.setenv(name, str(value))
        with (
            pytest.raises(RunFailed, match=rf"the processes cannot meet at 127.0.0.1:{port} \(.*in use"),
            join_mesh(2, torch.device("cpu"), timeout=60),
        ):
            pass


def test_what_fails_in_a_world_of_one_is_no_lost_peer() -> None:
    error = dist.DistBackendError("NCCL error: unhandled cuda error 'out of memory'")
    with pytest.raises(dist.DistBackendError, match="out of memory"), join_mesh(2, torch.device("cpu"), timeout=60):
        raise error
    dist.destroy_process_group()


def _policies() -> tuple[int, list[int]]:
    """How the main thread of a process of a mesh is scheduled, and how all its threads are."""
    with join_mesh(2, torch.device("cpu"), timeout=60):
        threads = [int(thread.name) for thread in Path("/proc/self/task").iterdir()]
        return os.sched_getscheduler(0), [os.sched_getscheduler(thread) for thread in threads]


def test_a_thread_that_may_spin_takes_the_core_from_nobody() -> None:
    for main, threads in run_processes(_policies, 2):
        assert main == os.SCHED_OTHER
        assert threads.count(os.SCHED_BATCH) == 1
        assert set(threads) == {os.SCHED_OTHER, os.SCHED_BATCH}
