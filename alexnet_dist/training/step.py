"""One step's arithmetic: what a process computes between a batch and its gradients."""

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from alexnet_dist.errors import UserError
from alexnet_dist.kernels.native import CompilerError
from alexnet_dist.kernels.tail import Kernels
from alexnet_dist.model.dropout import DropoutKey
from alexnet_dist.parallel.loss import split_cross_entropy
from alexnet_dist.parallel.mesh import Mesh, share_cores

Autocast = Callable[[], AbstractContextManager[None]]

# The values of parallel.wire.
WIRES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


def set_precision(kind: str, device: torch.device) -> Autocast:
    """Set torch up for `fp32`, `tf32` or `bf16` products; returns the context that a forward pass runs in."""
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = kind == "tf32"
    if kind == "bf16":
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext


def set_threads(threads: int | str, shares: int) -> None:
    """Give torch so many threads; `auto`: this machine's cores over `shares`."""
    torch.set_num_threads(share_cores(shares) if isinstance(threads, str) else threads)


def load_kernels(wanted: str, device: torch.device, warn: Callable[[str], None]) -> Kernels | None:
    """The compiled operations of a CPU for `auto` and `on`; None for `off`, on a GPU, and with a warning where `auto` finds none.

    Raises:
        UserError: `on`, and they cannot be compiled here.
    """
    if wanted == "off" or device.type != "cpu":
        return None
    try:
        return Kernels()
    except CompilerError as error:
        if wanted == "on":
            raise UserError(f"trainer.native=on, but {error}: install one, or set trainer.native=auto") from None
        warn(f"warning: {error}: norms and poolings are torch's, which take longer (as with trainer.native=off)")
        return None


# Parameters of glibc's mallopt, and its own values for them.
_MALLOC_DEFAULTS = {-1: 128 * 1024, -2: 128 * 1024, -4: 65536}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
_MALLOC_KEEPS = {-1: 2**31 - 1, -2: 2**28, -4: 0, -8: 1}  # and M_ARENA_MAX, which glibc takes once and for all


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


def loss_of(
    net: nn.Module, images: torch.Tensor, labels: torch.Tensor, key: DropoutKey, mesh: Mesh, autocast: Autocast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over this replica's images and how many of them are guessed wrong, the same scalars on every tower.

    `images` float [N, 3, H, W], `labels` int64 [N]; `key` says where the replica's images stand in the step's batch.
    """
    with autocast():
        logits = net(images, key)
    return split_cross_entropy(logits, labels, mesh.tower_group)
