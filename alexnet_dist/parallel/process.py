"""A process set up for its part of a step: its device, its threads, its arithmetic, its memory."""

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from alexnet_dist.errors import UserError

Autocast = Callable[[], AbstractContextManager[None]]

# Parameters of glibc's mallopt, and its own values for them.
_MALLOC_DEFAULTS = {-1: 128 * 1024, -2: 128 * 1024, -4: 65536}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
_MALLOC_KEEPS = {-1: 2**31 - 1, -2: 2**28, -4: 0, -8: 1}  # and M_ARENA_MAX, which glibc takes once and for all


@dataclass(frozen=True)
class Process:
    """`cores` of the machine fall to it, `threads` are torch's; a forward pass runs in `autocast()`."""

    device: torch.device
    cores: int
    threads: int
    autocast: Autocast


def enter_process(
    device: str, precision: str, parts: int = 1, threads: int | str = "auto", deterministic: bool = False
) -> Process:
    """Set this process up, one of those that LOCAL_RANK and LOCAL_WORLD_SIZE count on its machine (alone, where they are not).

    `threads` are torch's; auto: the cores over the machine's processes, or over the `parts` of a step (a tower's slice is the
    smallest) where those are more, so that each is computed by as many threads in whichever process. A backward pass is done by
    the thread that asks for it, so that one thread begins all messages. `deterministic`: as `repeat_bits`.

    Raises:
        UserError: as `pick_device`.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")), precision)
    torch.set_num_threads(share_cores(max(processes, parts)) if isinstance(threads, str) else threads)
    torch.autograd.set_multithreading_enabled(False)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        repeat_bits()
    if chosen.type == "cpu":
        keep_freed_memory()
    return Process(chosen, share_cores(processes), torch.get_num_threads(), set_precision(precision, chosen))


def boot_id() -> str:
    """What tells a machine, and one start of it, from others; its monotonic clock counts from there."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def world_size() -> int:
    """How many processes run this command together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def pick_device(wanted: str, local_rank: int, precision: str = "fp32") -> torch.device:
    """`auto`, `cpu` or `cuda` -> the device of the node's `local_rank`-th process: a GPU of its own, or the CPU.

    Raises:
        UserError: CUDA is asked for where there is none, there are more processes than GPUs, or a CPU has no such precision.
    """
    # Kernels are loaded at once and not when they are first wanted, which may wait for one that waits for another process.
    os.environ.setdefault("CUDA_MODULE_LOADING", "EAGER")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        if precision == "tf32":
            raise UserError("precision=tf32 is a mode of NVIDIA GPUs: with device=cpu take precision=fp32 or precision=bf16")
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device on this machine: use device=cpu or device=auto")
    visible = torch.cuda.device_count()
    # SLURM 23.11 and later say --gpus-per-task in SLURM_TRES_PER_TASK.
    named = {"SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU"} & set(os.environ)
    bound = named or "gpu" in os.environ.get("SLURM_TRES_PER_TASK", "")
    if visible == 1 and bound and os.environ.get("SLURM_LOCALID") == str(local_rank):  # srun's task sees its own GPU alone
        return torch.device("cuda", 0)
    if local_rank >= visible:
        raise UserError(
            f"process {local_rank} of this node has no GPU of its own: {visible} are visible; "
            "start fewer processes on the node, or use device=cpu"
        )
    return torch.device("cuda", local_rank)


@cache
def stream_for(purpose: str, device: torch.device) -> torch.cuda.Stream:
    """A process's stream for a purpose, made once: torch has 32 a GPU and hands them out in turn, so that one made anew each time
    would one day be that in which a step is captured."""
    return torch.cuda.Stream(device)


def share_cores(shares: int) -> int:
    """How many of the cores that this process may run on fall to it when so many share them; at least one."""
    return max(1, len(os.sched_getaffinity(0)) // shares)


def set_precision(kind: str, device: torch.device) -> Autocast:
    """Set torch up for `fp32`, `tf32` or `bf16` products; returns the context that a forward pass runs in."""
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = kind == "tf32"
    if kind == "bf16":
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext


def repeat_bits() -> None:
    """Let torch, cuDNN and cuBLAS take none but algorithms that give the same bits each time, on GPUs of one kind and with one
    version of each; an operation that has none raises RuntimeError."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # the stubs lack it
    torch.backends.cudnn.deterministic = True


def keep_freed_memory(keep: bool = True) -> None:
    """Let malloc keep what a step frees for the next one, or give it back as glibc does by itself. Where malloc is not glibc's
    nothing is changed.

    A step's maps and gradients are large: each would be pages taken anew from the system, which cost a fifth of a step. Threads
    that start afterwards share one arena: what those of a feed have freed would else lie idle in arenas of their own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for parameter, value in (_MALLOC_KEEPS if keep else _MALLOC_DEFAULTS).items():
        if mallopt is not None:
            mallopt(parameter, value)
