"""Response normalisation over a window of the same map; channels last, computed in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet_dist.kernels.cuda.parts import inverse_power


@triton.jit
def forward_kernel(
    x_ptr, y_ptr, scale_ptr, pixels, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, C: tl.constexpr,
    P: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """P of the `pixels` of all images, and their scales K + ALPHA * (sum of squares over the window)."""
    pixel = tl.program_id(0) * P + tl.arange(0, P)[:, None]
    channel = tl.arange(0, C)[None, :]
    row, column = pixel // WIDTH % HEIGHT, pixel % WIDTH
    known = (pixel < pixels) & (channel < CHANNELS)
    total = tl.zeros((P, C), tl.float32)
    for j in range(SIZE * SIZE):
        down, right = j // SIZE - SIZE // 2, j % SIZE - SIZE // 2
        inside = known & (row + down >= 0) & (row + down < HEIGHT) & (column + right >= 0) & (column + right < WIDTH)
        at = (pixel + down * WIDTH + right).to(tl.int64) * CHANNELS + channel
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        total += x * x
    at = pixel.to(tl.int64) * CHANNELS + channel
    scale = K + ALPHA * total
    x = tl.load(x_ptr + at, mask=known, other=0.0).to(tl.float32)
    tl.store(scale_ptr + at, scale, mask=known)
    tl.store(y_ptr + at, (x * inverse_power(scale, BETA)).to(y_ptr.dtype.element_ty), mask=known)


@triton.jit
def backward_kernel(
    gradient_ptr, x_ptr, scale_ptr, x_gradient_ptr, pixels, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    C: tl.constexpr, P: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """g p - 2 ALPHA BETA x (sum over the window of g x p / s), with s the scales and p = s ^ -BETA."""
    pixel = tl.program_id(0) * P + tl.arange(0, P)[:, None]
    channel = tl.arange(0, C)[None, :]
    row, column = pixel // WIDTH % HEIGHT, pixel % WIDTH
    known = (pixel < pixels) & (channel < CHANNELS)
    total = tl.zeros((P, C), tl.float32)
    for j in range(SIZE * SIZE):
        down, right = j // SIZE - SIZE // 2, j % SIZE - SIZE // 2
        inside = known & (row + down >= 0) & (row + down < HEIGHT) & (column + right >= 0) & (column + right < WIDTH)
        at = (pixel + down * WIDTH + right).to(tl.int64) * CHANNELS + channel
        g = tl.load(gradient_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + at, mask=inside, other=1.0)
        total += g * x * inverse_power(scale, BETA) / scale
    at = pixel.to(tl.int64) * CHANNELS + channel
    g = tl.load(gradient_ptr + at, mask=known, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + at, mask=known, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + at, mask=known, other=1.0)
    g = g * inverse_power(scale, BETA) - 2 * ALPHA * BETA * x * total
    tl.store(x_gradient_ptr + at, g.to(x_gradient_ptr.dtype.element_ty), mask=known)


def forward(x: Tensor, norm: list[float]) -> tuple[Tensor, Tensor]:
    x = x.contiguous(memory_format=torch.channels_last)
    y, scale = torch.empty_like(x), torch.empty_like(x, dtype=torch.float32)
    _launch(forward_kernel, norm, x, y, scale)
    return y, scale


def backward(gradient: Tensor, x: Tensor, scale: Tensor, norm: list[float]) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    x_gradient = torch.empty_like(x)
    _launch(backward_kernel, norm, gradient.contiguous(memory_format=torch.channels_last), x, scale, x_gradient)
    return x_gradient


def _launch(kernel: triton.JITFunction, norm: list[float], *maps: Tensor) -> None:
    images, channels, height, width = maps[0].shape
    size, alpha, beta, k = norm
    columns = triton.next_power_of_2(channels)
    rows = max(1, 512 // columns)
    kernel[(triton.cdiv(images * height * width, rows),)](
        *maps, images * height * width, HEIGHT=height, WIDTH=width, CHANNELS=channels, C=columns, P=rows, SIZE=int(size),
        ALPHA=alpha / size**2, BETA=beta, K=k,
    )  # fmt: skip
