"""One step's arithmetic: what a process computes between a batch and its gradients."""

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

import torch
from torch import nn

from alexnet_dist.errors import UserError
from alexnet_dist.kernels import tail
from alexnet_dist.kernels.native import CompilerError
from alexnet_dist.launching.toolchain import find_toolchain
from alexnet_dist.model.copies import Copy
from alexnet_dist.model.dropout import DropoutKey
from alexnet_dist.model.net import Net
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


def load_kernels(wanted: str, device: torch.device, warn: Callable[[str], None]) -> bool:
    """Make the device's fused operations ready, as `trainer.native` wants; whether they are to be used.

    Raises:
        UserError: `on`, and they cannot be had here.
    """
    if wanted == "off":
        return False
    try:
        if device.type == "cpu":
            tail.load(find_toolchain(), warn)
        elif find_spec("triton") is None:
            raise CompilerError("there is no Triton")
        return True
    except CompilerError as error:
        if wanted == "on":
            raise UserError(f"trainer.native=on, but {error}: install one, or set trainer.native=auto") from None
        warn(f"warning: {error}: norms and poolings are torch's, which take longer (as with trainer.native=off)")
        return False


def narrow_copies(net: Net, precision: str, mesh: Mesh, native: bool) -> dict[nn.Parameter, Copy]:
    """Where a GPU computes in bf16 by its own kernels: the net's copies of its weights, which the update writes.

    The weights' gradients stay bf16 then too, unless replicas have to add them.
    """
    if not (native and mesh.device.type == "cuda" and precision == "bf16"):
        return {}
    return net.keep_copies(torch.bfloat16, narrow_gradients=mesh.layout.replicas == 1)


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
    net: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    key: DropoutKey,
    mesh: Mesh,
    autocast: Autocast,
    native: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over this replica's images and how many of them are guessed wrong, the same scalars on every tower.

    `images` float [N, 3, H, W], `labels` int64 [N]; `key` says where the replica's images stand in the step's batch. `native`:
    the loss too is computed by a GPU's fused operations.
    """
    with autocast():
        logits = net(images, key)
    return split_cross_entropy(logits, labels, mesh.tower_group, native)
