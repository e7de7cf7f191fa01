"""Start real processes over gloo for a test, and bring back what they return."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from tests.ports import free_ports

# Ranks on one GPU: NCCL is told that they are several machines', over the loopback.
ONE_GPU = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_NVLS_ENABLE": "0", "NCCL_SOCKET_IFNAME": "lo"}


def run_processes(entry: Callable[..., Any], processes: int, *arguments: Any) -> list[Any]:
    """`entry(*arguments)` in so many processes with RANK, WORLD_SIZE and a rendezvous set; their results by rank.

    A failure in any process is raised here with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        common = (processes, str(free_ports()[0]), folder, entry, arguments)
        mp.start_processes(_enter, common, nprocs=processes, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(processes)]


def _enter(rank: int, processes: int, port: str, folder: str, entry: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(processes),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
    )
    torch.set_num_threads(1)
    torch.save(entry(*arguments), Path(folder) / f"{rank}.pt")
