"""One step's arithmetic: what a process computes between a batch and its gradients."""

from collections.abc import Callable

import torch
from torch import nn

from alexnet_dist.errors import UserError
from alexnet_dist.kernels.native import CompilerError
from alexnet_dist.kernels.tail import Kernels
from alexnet_dist.model.dropout import DropoutKey
from alexnet_dist.parallel.loss import split_cross_entropy
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.parallel.process import Autocast

# The values of parallel.wire.
WIRES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


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


def loss_of(
    net: nn.Module, images: torch.Tensor, labels: torch.Tensor, key: DropoutKey, mesh: Mesh, autocast: Autocast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over this replica's images and how many of them are guessed wrong, the same scalars on every tower.

    `images` float [N, 3, H, W], `labels` int64 [N]; `key` says where the replica's images stand in the step's batch.
    """
    with autocast():
        logits = net(images, key)
    return split_cross_entropy(logits, labels, mesh.tower_group)
