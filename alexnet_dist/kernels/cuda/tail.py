"""What follows a convolution: activation, response norm, max pooling, relu. Channels last; computed in float32.

A program has some pixels with all their channels, so that a norm's window lies within it. Backward, a pixel gathers what came
from it out of the windows that it lies in: nothing is added by atomics, and the bits repeat.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet_dist.kernels.cuda.parts import activated, inverse_power, slope_from_output, window_sum
from alexnet_dist.kernels.tail import empty_maps, lies_in_pixels

_PASSES = 8  # times a program of the backward pass does its pixels, so that fewer parts of the bias's gradient are left


@triton.jit
def forward_kernel(
    x_ptr, bias_ptr, y_ptr, index_ptr, pixels, X_STRIDE: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, CHANNELS: tl.constexpr, C: tl.constexpr, P: tl.constexpr,
    BIAS: tl.constexpr, ACTIVATION: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, K: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, RELU_LAST: tl.constexpr,
):  # fmt: skip
    """P of the `pixels` of y, of all images; ALPHA is divided by the SIZE already. KERNEL 1: no pooling, no index."""
    pixel = tl.program_id(0) * P + tl.arange(0, P)[:, None]
    channel = tl.arange(0, C)[None, :]
    there = channel < CHANNELS
    image, within = pixel // (OUT_HEIGHT * OUT_WIDTH), pixel % (OUT_HEIGHT * OUT_WIDTH)
    top, left = within // OUT_WIDTH * STRIDE - PAD, within % OUT_WIDTH * STRIDE - PAD
    best = tl.full((P, C), float("-inf"), tl.float32)
    place = tl.zeros((P, C), tl.int32)
    for j in range(KERNEL * KERNEL):
        row, column = top + j // KERNEL, left + j % KERNEL
        inside = (pixel < pixels) & (row >= 0) & (column >= 0) & (row < HEIGHT) & (column < WIDTH)
        at = ((image * HEIGHT + row) * WIDTH + column).to(tl.int64) * X_STRIDE + channel
        a = tl.load(x_ptr + at, mask=inside & there, other=0.0).to(tl.float32)
        if BIAS:
            a += tl.load(bias_ptr + channel, mask=there, other=0.0)
        a = tl.where(there, activated(a, ACTIVATION), 0.0)
        if SIZE:
            a *= inverse_power(K + ALPHA * window_sum(a * a, SIZE), BETA)
        better = inside & ((a > best) | (a != a))
        best, place = tl.where(better, a, best), tl.where(better, j, place)
    if RELU_LAST:
        place, best = tl.where(best <= 0, 255, place), tl.where(best < 0, 0.0, best)
    to = pixel.to(tl.int64) * CHANNELS + channel
    tl.store(y_ptr + to, best.to(y_ptr.dtype.element_ty), mask=(pixel < pixels) & there)
    if KERNEL > 1:
        tl.store(index_ptr + to, place.to(tl.uint8), mask=(pixel < pixels) & there)


@triton.jit
def backward_kernel(
    gradient_ptr, x_ptr, bias_ptr, index_ptr, x_gradient_ptr, bias_gradient_ptr, pixels,
    g_image, g_row, g_column, g_channel, X_STRIDE: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, CHANNELS: tl.constexpr, C: tl.constexpr, P: tl.constexpr,
    PASSES: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr,
    BETA: tl.constexpr, K: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """PASSES times P of the `pixels` of x, of all images. With a the activated maps, s the norm's scales, p = s ^ -BETA and g the
    gradient of a p: g p - 2 ALPHA BETA a (sum over the window of g a p / s), times the activation's slope."""
    channel = tl.arange(0, C)[None, :]
    there = channel < CHANNELS
    bias_gradient = tl.zeros((P, C), tl.float32)
    for turn in range(PASSES):
        pixel = (tl.program_id(0) * PASSES + turn) * P + tl.arange(0, P)[:, None]
        image, within = pixel // (HEIGHT * WIDTH), pixel % (HEIGHT * WIDTH)
        row, column = within // WIDTH, within % WIDTH
        known = (pixel < pixels) & there
        g = tl.zeros((P, C), tl.float32)
        # The windows that a pixel lies in: as many either way as strides go into a window, the last one first.
        ACROSS: tl.constexpr = (KERNEL + STRIDE - 1) // STRIDE
        for j in range(ACROSS * ACROSS):
            out_row, out_column = (row + PAD) // STRIDE - j // ACROSS, (column + PAD) // STRIDE - j % ACROSS
            in_row, in_column = row + PAD - out_row * STRIDE, column + PAD - out_column * STRIDE
            inside = (out_row >= 0) & (out_column >= 0) & (out_row < OUT_HEIGHT) & (out_column < OUT_WIDTH) & known
            inside = inside & (in_row < KERNEL) & (in_column < KERNEL)
            if KERNEL > 1:
                at = ((image * OUT_HEIGHT + out_row) * OUT_WIDTH + out_column).to(tl.int64) * CHANNELS + channel
                chosen = tl.load(index_ptr + at, mask=inside, other=255).to(tl.int32)
                inside = inside & (chosen == in_row * KERNEL + in_column)
            at = image.to(tl.int64) * g_image + out_row * g_row + out_column * g_column + channel * g_channel
            g += tl.load(gradient_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + pixel.to(tl.int64) * X_STRIDE + channel, mask=known, other=0.0).to(tl.float32)
        if BIAS:
            x += tl.load(bias_ptr + channel, mask=there, other=0.0)
        if SIZE:
            a = tl.where(there, activated(x, ACTIVATION), 0.0)
            scale = K + ALPHA * window_sum(a * a, SIZE)
            g *= inverse_power(scale, BETA)
            g -= 2 * ALPHA * BETA * a * window_sum(g * a / scale, SIZE)
        g = tl.where(known, g * slope_from_output(activated(x, ACTIVATION), ACTIVATION), 0.0)
        tl.store(x_gradient_ptr + pixel.to(tl.int64) * CHANNELS + channel, g.to(x_gradient_ptr.dtype.element_ty), mask=known)
        bias_gradient += g
    if BIAS:
        to = bias_gradient_ptr + tl.program_id(0) * CHANNELS + tl.arange(0, C)
        tl.store(to, tl.sum(bias_gradient, 0), mask=tl.arange(0, C) < CHANNELS)


def forward(
    x: Tensor, bias: Tensor | None, activation: str, norm: list[float], pool: list[int], relu_last: bool
) -> tuple[Tensor, Tensor]:
    x = in_pixels(x)
    y = empty_maps(x, pool)
    index = torch.empty(y.permute(0, 2, 3, 1).shape if pool else 0, dtype=torch.uint8, device=x.device)
    pixels = y.numel() // max(1, y.shape[1])
    said = _said(x, y, activation, norm, pool)
    grid = (triton.cdiv(pixels, said["P"]),)
    forward_kernel[grid](x, x if bias is None else bias, y, index, pixels, BIAS=bias is not None, RELU_LAST=relu_last, **said)
    return y, index


def backward(
    gradient: Tensor, x: Tensor, bias: Tensor | None, index: Tensor, activation: str, norm: list[float], pool: list[int]
) -> tuple[Tensor, Tensor]:
    x = in_pixels(x)
    x_gradient = empty_maps(x, [])
    pixels = x.numel() // max(1, x.shape[1])
    said = _said(x, gradient, activation, norm, pool)
    grid = (triton.cdiv(pixels, said["P"] * _PASSES),)
    parts = x.new_empty(grid[0] if bias is not None else 0, x.shape[1], dtype=torch.float32)
    images, channels, rows, columns = gradient.stride()
    backward_kernel[grid](
        gradient, x, x if bias is None else bias, index, x_gradient, parts, pixels, images, rows, columns, channels,
        PASSES=_PASSES, BIAS=bias is not None, **said,
    )  # fmt: skip
    return x_gradient, x.new_empty(0, dtype=torch.float32) if bias is None else parts.sum(0)


def in_pixels(x: Tensor) -> Tensor:
    """The maps as `lies_in_pixels` has them; x itself where it lies so."""
    return x if lies_in_pixels(x) else torch.empty_like(x, memory_format=torch.channels_last).copy_(x)


def _said(x: Tensor, y: Tensor, activation: str, norm: list[float], pool: list[int]) -> dict[str, int | float | str]:
    size, alpha, beta, k = norm or (0, 0.0, 0.0, 0.0)
    kernel, stride, pad = pool[:3] or (1, 1, 0)
    channels = triton.next_power_of_2(x.shape[1])
    return {
        "X_STRIDE": x.stride(3), "HEIGHT": x.shape[2], "WIDTH": x.shape[3], "OUT_HEIGHT": y.shape[2], "OUT_WIDTH": y.shape[3],
        "CHANNELS": x.shape[1], "C": channels, "P": max(1, 512 // channels), "ACTIVATION": activation, "SIZE": int(size),
        "ALPHA": alpha / max(1, size), "BETA": beta, "K": k, "KERNEL": kernel, "STRIDE": stride, "PAD": pad,
    }  # fmt: skip
