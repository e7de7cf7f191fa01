"""The parts of a cross-entropy whose logits several towers hold, each one operation, on a GPU; what is between them crosses.

`logits` are those of the towers held here, each [N, C]; `first_class` is the first one's. parallel/loss.py says what is summed.
"""

import torch
from torch import Tensor

from alexnet_dist.kernels.operation import on_gpus


@on_gpus("alexnet::largest_logit")
def largest_logit(logits: list[Tensor]) -> Tensor:
    """Of each image, float32 [N]."""
    from alexnet_dist.kernels.cuda.loss import largest

    return largest(logits)


@on_gpus("alexnet::loss_sums")
def loss_sums(logits: list[Tensor], largest: Tensor, labels: Tensor, first_class: int) -> Tensor:
    """float32 [3, N]: the sum of exponentials, the label's logit, both less the largest one; how many classes before the label
    share the largest."""
    from alexnet_dist.kernels.cuda.loss import sums

    return sums(logits, largest, labels, first_class)


@on_gpus("alexnet::loss")
def loss_and_wrong(sums: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss, float32, and the number of images guessed wrong, int64, of the sums over all towers."""
    from alexnet_dist.kernels.cuda.loss import loss

    return loss(sums)


@on_gpus("alexnet::loss_gradient")
def loss_gradient(
    logits: list[Tensor], largest: Tensor, sums: Tensor, labels: Tensor, gradient: Tensor, first_class: int
) -> list[Tensor]:
    """Those of the logits, from the loss's, a scalar."""
    from alexnet_dist.kernels.cuda.loss import gradient as gradient_of

    return gradient_of(logits, largest, sums, labels, gradient, first_class)


@largest_logit.register_fake
def _(logits):  # type: ignore[no-untyped-def]
    return logits[0].new_empty(len(logits[0]), dtype=torch.float32)


@loss_sums.register_fake
def _(logits, largest, labels, first_class):  # type: ignore[no-untyped-def]
    return largest.new_empty(3, len(largest))


@loss_and_wrong.register_fake
def _(sums):  # type: ignore[no-untyped-def]
    return sums.new_empty(()), sums.new_empty((), dtype=torch.int64)


@loss_gradient.register_fake
def _(logits, largest, sums, labels, gradient, first_class):  # type: ignore[no-untyped-def]
    return [part.new_empty(part.shape) for part in logits]
