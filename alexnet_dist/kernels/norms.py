"""The response norms in plain torch: the reference for what computes them faster."""

import torch
import torch.nn.functional as F


def response_norm(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """Local response normalisation across maps (paper, section 3.3), of float [N, C, H, W].

    b = a / (k + alpha / size * sum of a^2 over `size` neighbouring maps) ^ beta, the maps being one tower's: the authors'
    program divides alpha by the window, and so does torch.nn.LocalResponseNorm, whose results this gives several times faster.
    """
    return _ResponseNorm.apply(x, size, alpha, beta, k)


def spatial_norm(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """Response normalisation over a size x size window of the same map (layers-145.cfg, rnorm2b), of float [N, C, H, W].

    b = a / (k + alpha / size^2 * sum of a^2 over the window, zeros outside) ^ beta.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    mean_square = F.avg_pool2d(wide.square(), size, stride=1, padding=size // 2, count_include_pad=True)
    return (wide * (k + alpha * mean_square).pow(-beta)).to(x.dtype)


class _ResponseNorm(torch.autograd.Function):
    """The norm by shifted sums. Forward, it rounds exactly as torch.nn.LocalResponseNorm does.

    A last bit that differs can pick another pixel in a max-pooling, and then a gradient differs in its third digit.
    """

    @staticmethod
    def forward(ctx, x, size, alpha, beta, k):  # type: ignore[no-untyped-def]
        wide = x if x.dtype == torch.float64 else x.float()
        scale = _window_sum(wide.square(), size).div_(size).mul_(alpha).add_(k)
        power = scale.pow(beta)
        ctx.save_for_backward(x, scale, power)
        ctx.size, ctx.factor = size, 2 * alpha * beta / size
        return (wide / power).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, scale, power = ctx.saved_tensors
        wide = x.to(scale.dtype)
        direct = gradient.to(scale.dtype) / power
        through = _window_sum((direct * wide).div_(scale), ctx.size).mul_(wide).mul_(ctx.factor)
        return direct.sub_(through).to(x.dtype), None, None, None, None


def _window_sum(x: torch.Tensor, size: int) -> torch.Tensor:
    """Sum of each map [N, C, H, W] and its size // 2 neighbours on either side, added from the first map to the last."""
    total = torch.zeros_like(x)
    maps = x.shape[1]
    for offset in range(-min(size // 2, maps - 1), min(size // 2, maps - 1) + 1):
        first, last = max(0, -offset), min(maps, maps - offset)
        total[:, first:last] += x[:, first + offset : last + offset]
    return total
