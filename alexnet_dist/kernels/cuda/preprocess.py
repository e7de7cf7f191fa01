"""Training images from uint8 crops: mirrored, the mean image subtracted, and colour noise added."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def kernel(
    crops_ptr, mirror_ptr, mean_ptr, y_ptr, x_ptr, mean_mirror_ptr, colour_ptr, eigenvectors_ptr, deviations_ptr,
    images_ptr, divisor, CROP: tl.constexpr, SIZE: tl.constexpr, COLOUR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK values of one image's CROP * CROP * 3."""
    image = tl.program_id(0)
    value = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = value < CROP * CROP * 3
    channel, column, row = value % 3, value // 3 % CROP, value // (3 * CROP)
    of_crop = tl.where(tl.load(mirror_ptr + image) != 0, CROP - 1 - column, column)
    of_mean = tl.where(tl.load(mean_mirror_ptr + image) != 0, CROP - 1 - column, column)
    in_mean = (channel * SIZE + row + tl.load(y_ptr + image)) * SIZE + of_mean + tl.load(x_ptr + image)
    first = image.to(tl.int64) * (CROP * CROP * 3)
    in_crops = first + (row * CROP + of_crop) * 3 + channel
    result = tl.load(crops_ptr + in_crops, mask=known, other=0).to(tl.float32)
    result -= tl.load(mean_ptr + in_mean, mask=known, other=0.0)
    if COLOUR:
        for i in tl.static_range(3):
            amount = tl.load(colour_ptr + image * 3 + i) * tl.load(deviations_ptr + i)
            result += tl.load(eigenvectors_ptr + channel * 3 + i, mask=known, other=0.0) * amount
        result /= divisor
    tl.store(images_ptr + first + value, result.to(images_ptr.dtype.element_ty), mask=known)


def preprocess(
    crops: Tensor, mirror: Tensor, mean: Tensor, y: Tensor, x: Tensor, mean_mirror: Tensor, colour: Tensor | None,
    eigenvectors: Tensor, deviations: Tensor, divisor: float, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    crops = crops.contiguous(memory_format=torch.channels_last)
    count, crop = len(crops), crops.shape[2]
    images = torch.empty_like(crops, dtype=dtype)
    kernel[(count, triton.cdiv(crop * crop * 3, _BLOCK))](
        crops, mirror, mean, y, x, mean_mirror, mean if colour is None else colour, eigenvectors, deviations, images, divisor,
        CROP=crop, SIZE=mean.shape[1], COLOUR=colour is not None, BLOCK=_BLOCK,
    )  # fmt: skip
    return images
