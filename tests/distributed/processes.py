"""Start real processes over gloo for a test, and bring back what they return."""

import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

# Ranks on one GPU: NCCL is told that they are several machines', over the loopback.
ONE_GPU = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_NVLS_ENABLE": "0", "NCCL_SOCKET_IFNAME": "lo"}


def run_processes(entry: Callable[..., Any], processes: int, *arguments: Any) -> list[Any]:
    """`entry(*arguments)` in so many processes with RANK, WORLD_SIZE and a rendezvous set; their results by rank.

    A failure in any process is raised here with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_enter, (processes, folder, entry, arguments), nprocs=processes, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(processes)]


def _enter(rank: int, processes: int, folder: str, entry: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(processes),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=_port(rank, folder),
    )
    torch.set_num_threads(1)
    torch.save(entry(*arguments), Path(folder) / f"{rank}.pt")


def _port(rank: int, folder: str) -> str:
    """A free port of this machine, chosen by rank 0 for all."""
    chosen = Path(folder) / "port"
    if rank == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            written = chosen.with_suffix(".partial")
            written.write_text(str(probe.getsockname()[1]))
            written.rename(chosen)
    while not chosen.exists():
        time.sleep(0.01)
    return chosen.read_text()
