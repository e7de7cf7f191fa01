"""One step's arithmetic: what a process computes between a batch and its gradients."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from alexnet_dist.model.dropout import DropoutKey
from alexnet_dist.parallel.loss import split_cross_entropy
from alexnet_dist.parallel.mesh import Mesh, share_cores

Autocast = Callable[[], AbstractContextManager[None]]


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


def loss_of(
    net: nn.Module, images: torch.Tensor, labels: torch.Tensor, key: DropoutKey, mesh: Mesh, autocast: Autocast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over this replica's images and how many of them are guessed wrong, the same scalars on every tower.

    `images` float [N, 3, H, W], `labels` int64 [N]; `key` says where the replica's images stand in the step's batch.
    """
    with autocast():
        logits = net(images, key)
    return split_cross_entropy(logits, labels, mesh.tower_group)
