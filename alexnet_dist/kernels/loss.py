"""The parts of a cross-entropy whose logits several towers hold, each one operation, on a GPU; what is between them crosses.

`logits` are those of the towers held here, each [N, C]; `first_class` is the first one's. parallel/loss.py says what is summed.
"""

import torch
from torch import Tensor

from alexnet_dist.kernels.operation import on_gpus


@on_gpus("alexnet::largest_logit", "loss.largest")
def largest_logit(logits: list[Tensor]) -> Tensor:
    """Of each image, float32 [N]."""
    return logits[0].new_empty(len(logits[0]), dtype=torch.float32)


@on_gpus("alexnet::loss_sums", "loss.sums")
def loss_sums(logits: list[Tensor], largest: Tensor, labels: Tensor, first_class: int) -> Tensor:
    """float32 [3, N]: the sum of exponentials, the label's logit, both less the largest one; how many classes before the label
    share the largest."""
    return largest.new_empty(3, len(largest))


@on_gpus("alexnet::loss", "loss.loss")
def loss_and_wrong(sums: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss, float32, and the number of images guessed wrong, int64, of the sums over all towers."""
    return sums.new_empty(()), sums.new_empty((), dtype=torch.int64)


@on_gpus("alexnet::loss_gradient", "loss.gradient")
def loss_gradient(
    logits: list[Tensor], largest: Tensor, sums: Tensor, labels: Tensor, gradient: Tensor, first_class: int
) -> list[Tensor]:
    """Those of the logits, from the loss's, a scalar."""
    return [part.new_empty(part.shape) for part in logits]
