"""From uint8 crops to training images as one operation, `alexnet::preprocess`: in plain torch, image by image for CPUs, and one
kernel for GPUs."""

import torch
from torch import Tensor

from alexnet_dist.kernels.operation import Operation, of_cuda


def preprocess_by_torch(
    crops: Tensor,
    mirror: Tensor,
    mean: Tensor,
    y: Tensor,
    x: Tensor,
    mean_mirror: Tensor,
    colour: Tensor | None,
    eigenvectors: Tensor,
    deviations: Tensor,
    divisor: float,
    dtype: torch.dtype,
) -> Tensor:
    """Images [N, 3, crop, crop] of `dtype`, channels last: crops (uint8, channels last), mirrored where `mirror` (bool [N]) says
    so, less the mean image float32 [3, size, size], cropped from y, x (int64 [N]) on and mirrored where `mean_mirror` does.

    With `colour` float32 [N, 3] plus [p1 p2 p3][a1 l1, a2 l2, a3 l3]^T, with p the eigenvectors in columns, l the deviations and
    a an image's colour, the whole over `divisor`.
    """
    steps = torch.arange(crops.shape[2], device=crops.device)
    rows = y[:, None] + steps
    columns = x[:, None] + torch.where(mean_mirror[:, None], crops.shape[2] - 1 - steps, steps)
    mean_of_pixels = mean.permute(1, 2, 0).contiguous()
    crops = torch.where(mirror[:, None, None, None], crops.flip(3), crops)
    images = crops.permute(0, 2, 3, 1) - mean_of_pixels[rows[:, :, None], columns[:, None, :]]
    if colour is not None:
        images += _noise(colour, eigenvectors, deviations)[:, None, None, :]
        if divisor != 1:
            images /= divisor
    return images.permute(0, 3, 1, 2).to(dtype)


def _noise(colour: Tensor, eigenvectors: Tensor, deviations: Tensor) -> Tensor:
    """Of each image, float32 [N, 3]."""
    return (eigenvectors * (colour * deviations)[:, None, :]).sum(dim=2)


preprocess = Operation("alexnet::preprocess", preprocess_by_torch)
preprocess.register_kernel("cuda")(of_cuda("preprocess.preprocess"))


@preprocess.register_kernel("cpu")
def _(crops, mirror, mean, y, x, mean_mirror, colour, eigenvectors, deviations, divisor, dtype):  # type: ignore[no-untyped-def]
    # Rows of pixels: an image stays in the cache from one pass to the next, and the mean image with it.
    size, crop = mean.shape[2], crops.shape[2]
    mean_of_pixels = mean.permute(1, 2, 0)
    means = torch.stack([mean_of_pixels, mean_of_pixels.flip(1)]).view(2, size, 3 * size)
    noise = None if colour is None else _noise(colour, eigenvectors, deviations).repeat(1, crop)
    images = torch.empty_like(crops, dtype=dtype, memory_format=torch.channels_last)
    pixels, made = (whole.permute(0, 2, 3, 1).reshape(-1, crop, 3 * crop) for whole in (crops, images))
    scratch = torch.empty(crop, 3 * crop)
    drawn = (each.tolist() for each in (mirror, y, x, mean_mirror))
    for i, (mirrored, top, left, mean_mirrored) in enumerate(zip(*drawn, strict=True)):
        own = pixels[i].view(crop, crop, 3).flip(1).view(crop, 3 * crop) if mirrored else pixels[i]
        first = 3 * (size - crop - left if mean_mirrored else left)
        image = made[i] if dtype == torch.float32 else scratch
        torch.sub(own, means[int(mean_mirrored), top : top + crop, first : first + 3 * crop], out=image)
        if noise is not None:
            image += noise[i]
            if divisor != 1:
                image /= divisor
        if image is scratch:
            made[i] = image
    return images


preprocess.register_fake(lambda crops, *said: torch.empty_like(crops, dtype=said[-1], memory_format=torch.channels_last))
