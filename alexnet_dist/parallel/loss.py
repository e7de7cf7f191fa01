"""Cross-entropy over classes that are split over towers, and towers over processes."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from alexnet_dist.kernels.loss import largest_logit, loss_and_wrong, loss_gradient, loss_sums
from alexnet_dist.kernels.steps import on_gpu


def split_cross_entropy(
    logits: Sequence[torch.Tensor], labels: torch.Tensor, group: dist.ProcessGroup, native: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy of a batch and how many of its images are guessed wrong, the same on every process of the group.

    `logits` are those of the towers held here, each [N, C] of its own C classes, in tower order; every process of the group
    holds as many towers. `labels` int64 [N] count all classes. Four numbers an image cross instead of the classes: the
    largest logit, the sum of exponentials, the label's logit, how many classes before the label share the largest. The gradient
    that flows back, softmax - one-hot over N, is that of the logits held here. The number of images is an int64 scalar without a
    gradient; of classes that share the largest logit the first is the guess, and an image whose logits are no numbers is wrong.
    `native`: on a GPU by its fused operations.
    """
    if native and on_gpu(logits[0]):
        return _FusedCrossEntropy.apply(labels, group, *logits)
    return _SplitCrossEntropy.apply(labels, group, *logits)


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, labels, group, *logits):  # type: ignore[no-untyped-def]
        ctx.first_class = dist.get_rank(group) * len(logits) * logits[0].shape[1]
        several = dist.get_world_size(group) > 1
        largest = largest_logit(list(logits))
        if several:
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
        sums = loss_sums(list(logits), largest, labels, ctx.first_class)
        if several:
            dist.all_reduce(sums, group=group)
        loss, wrong = loss_and_wrong(sums)
        ctx.save_for_backward(labels, largest, sums, *logits)
        ctx.mark_non_differentiable(wrong)
        ctx.set_materialize_grads(False)
        return loss, wrong

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, _):  # type: ignore[no-untyped-def]
        labels, largest, sums, *logits = ctx.saved_tensors
        return None, None, *loss_gradient(logits, largest, sums, labels, gradient, ctx.first_class)


class _SplitCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, labels, group, *logits):  # type: ignore[no-untyped-def]
        wide = torch.stack(logits, dim=1)
        wide = wide if wide.dtype == torch.float64 else wide.float()
        held, classes = wide.shape[1:]
        several = dist.get_world_size(group) > 1
        highest = wide.amax(dim=(1, 2))
        if several:
            dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
        shifted = wide - highest[:, None, None]
        exponentials = shifted.exp()
        local = (labels - dist.get_rank(group) * held * classes)[:, None, None]
        columns = torch.arange(held * classes, device=labels.device).view(held, classes)
        label = columns == local
        before = (shifted == 0) & (columns < local)
        # A tower's sum does not depend on who holds it, and there is one label.
        parts = exponentials.sum(dim=2), torch.where(label, shifted, 0).sum(dim=2), before.sum(dim=2, dtype=wide.dtype)
        sums = torch.stack(parts).sum(dim=2)
        if several:
            dist.all_reduce(sums, group=group)
        ctx.save_for_backward(sums[0], exponentials, label)
        ctx.dtype = logits[0].dtype
        wrong = (sums[1:] != 0).any(dim=0).sum()
        ctx.mark_non_differentiable(wrong)
        return (sums[0].log() - sums[1]).mean(), wrong

    @staticmethod
    def backward(ctx, gradient, _):  # type: ignore[no-untyped-def]
        total, exponentials, label = ctx.saved_tensors
        parts = (exponentials / total[:, None, None] - label.to(total.dtype)) * (gradient / len(total))
        return None, None, *parts.to(ctx.dtype).unbind(dim=1)
