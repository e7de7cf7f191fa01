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
        largest = largest_logit(list(logits))
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
        sums = loss_sums(list(logits), largest, labels, ctx.first_class)
        dist.all_reduce(sums, group=group)
        loss, wrong = loss_and_wrong(sums)
        ctx.save_for_backward(labels, largest, sums, *logits)
        ctx.mark_non_differentiable(wrong)
        return loss, wrong

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, _):  # type: ignore[no-untyped-def]
        labels, largest, sums, *logits = ctx.saved_tensors
        return None, None, *loss_gradient(logits, largest, sums, labels, gradient, ctx.first_class)


class _SplitCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, labels, group, *logits):  # type: ignore[no-untyped-def]
        wide = [part if part.dtype == torch.float64 else part.float() for part in logits]
        classes = wide[0].shape[1]
        first_tower = dist.get_rank(group) * len(wide)
        highest = torch.stack([part.amax(dim=1) for part in wide]).amax(dim=0)
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
        rows = torch.arange(len(labels), device=labels.device)
        columns = torch.arange(classes, device=labels.device)
        sums = torch.zeros(3, len(labels), dtype=highest.dtype, device=highest.device)
        saved = []
        for held, part in enumerate(wide):
            shifted = part - highest[:, None]
            exponentials = shifted.exp()
            local = labels - (first_tower + held) * classes
            mine = (local >= 0) & (local < classes)
            column = local.clamp(0, classes - 1)
            before = ((shifted == 0) & (columns < local[:, None])).sum(dim=1, dtype=sums.dtype)
            sums += torch.stack([exponentials.sum(dim=1), torch.where(mine, shifted[rows, column], 0), before])
            saved += [exponentials, mine, column]
        dist.all_reduce(sums, group=group)
        ctx.save_for_backward(rows, sums[0], *saved)
        ctx.dtype = logits[0].dtype
        wrong = len(labels) - ((sums[1] == 0) & (sums[2] == 0)).sum()
        ctx.mark_non_differentiable(wrong)
        return (sums[0].log() - sums[1]).mean(), wrong

    @staticmethod
    def backward(ctx, gradient, _):  # type: ignore[no-untyped-def]
        rows, total, *saved = ctx.saved_tensors
        gradients = []
        for exponentials, mine, column in zip(saved[::3], saved[1::3], saved[2::3], strict=True):
            part = exponentials / total[:, None]
            part[rows, column] -= mine.to(part.dtype)
            gradients.append((part * (gradient / len(rows))).to(ctx.dtype))
        return None, None, *gradients
