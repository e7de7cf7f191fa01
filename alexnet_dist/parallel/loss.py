"""Cross-entropy over classes that are split over processes."""

import torch
import torch.distributed as dist


def split_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """Mean cross-entropy of a batch, the same scalar on every process of the group.

    Each process holds the logits [N, C] of its C classes; rank i of the group those from i * C on. `labels` int64 [N] count
    all classes. Three numbers an image cross instead of C: the largest logit, the sum of exponentials, the label's logit.
    The gradient that flows back on a process, softmax - one-hot over N, is that of its own logits.
    """
    if group is None or dist.get_world_size(group) == 1:
        return torch.nn.functional.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, labels)
    return _SplitCrossEntropy.apply(logits, labels, group)


class _SplitCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels, group):  # type: ignore[no-untyped-def]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        classes = wide.shape[1]
        highest = wide.amax(dim=1)
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
        shifted = wide - highest[:, None]
        exponentials = shifted.exp()
        local = labels - dist.get_rank(group) * classes
        mine = (local >= 0) & (local < classes)
        rows = torch.arange(len(labels), device=labels.device)
        column = local.clamp(0, classes - 1)
        own_logit = torch.where(mine, shifted[rows, column], 0)
        sums = torch.stack([exponentials.sum(dim=1), own_logit])
        dist.all_reduce(sums, group=group)
        ctx.save_for_backward(exponentials, sums[0], mine, column, rows)
        ctx.dtype = logits.dtype
        return (sums[0].log() - sums[1]).mean()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        exponentials, total, mine, column, rows = ctx.saved_tensors
        result = exponentials / total[:, None]
        result[rows, column] -= mine.to(result.dtype)
        return (result * (gradient / len(rows))).to(ctx.dtype), None, None
