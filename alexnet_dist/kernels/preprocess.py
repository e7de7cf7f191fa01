"""From uint8 crops to training images as one operation, `alexnet::preprocess`: in plain torch, and one kernel for GPUs."""

import torch
from torch import Tensor


@torch.library.custom_op("alexnet::preprocess", mutates_args=())
def preprocess(
    crops: Tensor,
    mean: Tensor,
    y: Tensor,
    x: Tensor,
    mirror: Tensor,
    colour: Tensor | None,
    eigenvectors: Tensor,
    deviations: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Images [N, 3, crop, crop] of `dtype`, channels last: crops (uint8, channels last) less the mean image float32
    [3, size, size], cut from y, x (int64 [N]) on and mirrored where `mirror` (bool [N]) says so, and plus colour noise.

    The noise is the same for all pixels of an image: [p1 p2 p3][a1 l1, a2 l2, a3 l3]^T (paper, section 4.1), with p the
    eigenvectors in columns, l the deviations (the authors' program has deviations where the paper says eigenvalues) and a its
    `colour` float32 [N, 3]; without a colour there is none.
    """
    steps = torch.arange(crops.shape[2], device=crops.device)
    rows = y[:, None] + steps
    columns = x[:, None] + torch.where(mirror[:, None], crops.shape[2] - 1 - steps, steps)
    mean_of_pixels = mean.permute(1, 2, 0).contiguous()
    images = crops.permute(0, 2, 3, 1) - mean_of_pixels[rows[:, :, None], columns[:, None, :]]
    if colour is not None:
        noise = (eigenvectors * (colour * deviations)[:, None, :]).sum(dim=2)
        images += noise[:, None, None, :]
    return images.permute(0, 3, 1, 2).to(dtype)


@preprocess.register_kernel("cuda")
def _(crops, mean, y, x, mirror, colour, eigenvectors, deviations, dtype):  # type: ignore[no-untyped-def]
    from alexnet_dist.kernels.cuda import preprocess

    return preprocess.preprocess(crops, mean, y, x, mirror, colour, eigenvectors, deviations, dtype)


@preprocess.register_fake
def _(crops, mean, y, x, mirror, colour, eigenvectors, deviations, dtype):  # type: ignore[no-untyped-def]
    return torch.empty_like(crops, dtype=dtype, memory_format=torch.channels_last)
