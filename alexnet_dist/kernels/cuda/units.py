"""An activation and dropout, value by value."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet_dist.kernels.cuda.parts import activated, mix, slope_from_output
from alexnet_dist.kernels.cuda.tail import in_pixels
from alexnet_dist.kernels.tail import empty_maps

_COLUMNS, _PASSES = 64, 4


@triton.jit
def kept(step_ptr, row, column, PIXELS: tl.constexpr, LAYER: tl.constexpr, seed, first_row, first_unit, threshold):
    """`kernels.dropout.keep_mask`, of which the seed is mixed already; a map's units are numbered as if it were flat."""
    stream = mix(mix(seed.to(tl.uint32) ^ tl.load(step_ptr).to(tl.uint32)) ^ LAYER)
    unit = (column + first_unit) * PIXELS + row % PIXELS
    bits = mix(mix((row // PIXELS + first_row).to(tl.uint32) ^ stream) ^ unit.to(tl.uint32))
    return bits >= threshold.to(tl.uint32)


@triton.jit(do_not_specialize=("seed", "first_row", "first_unit", "threshold"))
def forward_kernel(
    x_ptr, bias_ptr, step_ptr, y_ptr, rows, stride, columns, seed, first_row, first_unit, threshold, PIXELS: tl.constexpr,
    LAYER: tl.constexpr, P: tl.constexpr, C: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Of x [rows, columns], whose rows lie `stride` apart; PIXELS of them are an image's."""
    row = tl.program_id(0) * P + tl.arange(0, P)[:, None]
    column = tl.program_id(1) * C + tl.arange(0, C)[None, :]
    known = (row < rows) & (column < columns)
    x = tl.load(x_ptr + row.to(tl.int64) * stride + column, mask=known, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_ptr + column, mask=column < columns, other=0.0)
    x = activated(x, ACTIVATION)
    if DROP:
        x *= kept(step_ptr, row, column, PIXELS, LAYER, seed, first_row, first_unit, threshold).to(tl.float32)
    tl.store(y_ptr + row.to(tl.int64) * columns + column, x.to(y_ptr.dtype.element_ty), mask=known)


@triton.jit(do_not_specialize=("seed", "first_row", "first_unit", "threshold"))
def backward_kernel(
    gradient_ptr, y_ptr, step_ptr, x_gradient_ptr, bias_gradient_ptr, rows, columns, g_image, g_pixel, g_column,
    seed, first_row, first_unit, threshold, PIXELS: tl.constexpr, LAYER: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
    PASSES: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """From what `forward_kernel` gave: a unit that was dropped has 0, where a relu and a sigmoid have no slope."""
    column = tl.program_id(1) * C + tl.arange(0, C)[None, :]
    bias_gradient = tl.zeros((P, C), tl.float32)
    for turn in range(PASSES):
        row = (tl.program_id(0) * PASSES + turn) * P + tl.arange(0, P)[:, None]
        known = (row < rows) & (column < columns)
        at = (row // PIXELS).to(tl.int64) * g_image + row % PIXELS * g_pixel + column * g_column
        g = tl.load(gradient_ptr + at, mask=known, other=0.0).to(tl.float32)
        to = row.to(tl.int64) * columns + column
        g *= slope_from_output(tl.load(y_ptr + to, mask=known, other=0.0).to(tl.float32), ACTIVATION)
        if DROP and ACTIVATION != "relu" and ACTIVATION != "sigmoid":
            g *= kept(step_ptr, row, column, PIXELS, LAYER, seed, first_row, first_unit, threshold).to(tl.float32)
        tl.store(x_gradient_ptr + to, g.to(x_gradient_ptr.dtype.element_ty), mask=known)
        bias_gradient += g
    if BIAS:
        column = tl.program_id(1) * C + tl.arange(0, C)
        to = bias_gradient_ptr + tl.program_id(0) * columns + column
        tl.store(to, tl.sum(bias_gradient, 0), mask=column < columns)


def forward(x: Tensor, bias: Tensor | None, activation: str, masks: list[int], step: Tensor | None) -> Tensor:
    x = in_pixels(x) if x.dim() == 4 else x if x.stride(1) == 1 else x.contiguous()
    y = empty_maps(x, []) if x.dim() == 4 else torch.empty_like(x, memory_format=torch.contiguous_format)
    said, layer = _said(x, masks)
    rows, columns = x.numel() // max(1, x.shape[1]), x.shape[1]
    grid = (triton.cdiv(rows, said["P"]), triton.cdiv(columns, _COLUMNS))
    forward_kernel[grid](
        x, x if bias is None else bias, x if step is None else step, y, rows, x.stride(3 if x.dim() == 4 else 0), columns, *layer,
        BIAS=bias is not None, ACTIVATION=activation, **said,
    )  # fmt: skip
    return y


def backward(
    gradient: Tensor, y: Tensor, biased: bool, activation: str, masks: list[int], step: Tensor | None
) -> tuple[Tensor, Tensor]:
    if y.dim() == 4 and gradient.stride(2) != gradient.stride(3) * y.shape[3]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    x_gradient = empty_maps(y, []) if y.dim() == 4 else torch.empty_like(y)
    said, layer = _said(y, masks)
    rows, columns = y.numel() // max(1, y.shape[1]), y.shape[1]
    grid = (triton.cdiv(rows, said["P"] * _PASSES), triton.cdiv(columns, _COLUMNS))
    parts = y.new_empty(grid[0] if biased else 0, columns, dtype=torch.float32)
    backward_kernel[grid](
        gradient, y, y if step is None else step, x_gradient, parts, rows, columns, gradient.stride(0),
        gradient.stride(3) if y.dim() == 4 else 0, gradient.stride(1), *layer, PASSES=_PASSES, BIAS=biased,
        ACTIVATION=activation, **said,
    )  # fmt: skip
    return x_gradient, parts.sum(0) if biased else y.new_empty(0, dtype=torch.float32)


def _said(x: Tensor, masks: list[int]) -> tuple[dict[str, int], list[int]]:
    """What is compiled in, and what is not: `masks` is the seed mixed, first row and unit, the threshold, and the layer."""
    pixels = x.shape[2] * x.shape[3] if x.dim() == 4 else 1
    *told, layer = masks or [0] * 5
    return {"PIXELS": pixels, "LAYER": layer, "P": 16, "C": _COLUMNS, "DROP": bool(masks)}, told
