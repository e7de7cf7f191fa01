"""torch's flight recorder: a process keeps a list of its last messages and collectives, and writes it down when the run hangs."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import torch
from torch._C import _distributed_c10d

_SECONDS = 3.0


def turn_on() -> None:
    """For NCCL, before its first group is made, unless the environment says otherwise."""
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3")
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")


def write_down(folder: Path, rank: int) -> None:
    """Write this process's list to `folder`/rank_<rank>, a pickle that torch's analyser reads; nothing where it keeps none.

    NCCL would write it after its own timeout, but the processes of a run that hangs are ended before. Whatever keeps the list
    from being written must not keep the process: it is waited for a few seconds at most.
    """
    if int(os.environ.get("TORCH_FR_BUFFER_SIZE", "0")) <= 0:
        return

    def write() -> None:
        dump = getattr(_distributed_c10d, "_dump_nccl_trace" if torch.cuda.is_initialized() else "_dump_fr_trace")
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            (folder / f"rank_{rank}").write_bytes(dump())

    writing = threading.Thread(target=write, name="flight recorder", daemon=True)
    writing.start()
    writing.join(_SECONDS)
