"""One step's arithmetic: what a process computes between a batch and its gradients."""

from collections.abc import Callable
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
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.parallel.process import Autocast

# The values of parallel.wire.
WIRES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


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


def narrow_copies(net: Net, precision: str, native: bool, replicas: int) -> dict[torch.Tensor, Copy]:
    """Where products in bf16 are not a CPU's, with fused operations: the net's copies of its weights, which the update writes.

    The weights' gradients stay bf16 then too, unless replicas have to add them.
    """
    if not native or precision != "bf16" or next(net.parameters()).device.type == "cpu":
        return {}
    return net.keep_copies(torch.bfloat16, narrow_gradients=replicas == 1)


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

    `images` float [N, 3, H, W], `labels` int64 [N]; `key` says where the replica's images stand in the step's batch. `native`: by
    the fused operations of a GPU.
    """
    with autocast():
        logits = net(images, key)
    return split_cross_entropy(logits, labels, mesh.tower_group, native)
