"""The update of all parameters, in one pass over weights, velocities and gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048


@triton.jit
def kernel(
    weights, velocities, gradients, copies, numbers_ptr, finite_ptr, SIZES: tl.constexpr, FIRST: tl.constexpr,
    COPIED: tl.constexpr, GUARDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """v <- momentum v - rate (g + decay w); w <- w + v; copy <- w. The programs from FIRST[i] on have parameter i."""
    program = tl.program_id(0)
    for i in tl.static_range(len(SIZES)):
        if (program >= FIRST[i]) & (program < FIRST[i + 1]):
            at = (program - FIRST[i]).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
            rate = tl.load(numbers_ptr + i).to(tl.float32)
            momentum = tl.load(numbers_ptr + len(SIZES) + i).to(tl.float32)
            decay = tl.load(numbers_ptr + 2 * len(SIZES) + i).to(tl.float32)
            end = tl.where(tl.load(numbers_ptr + 3 * len(SIZES) + i).to(tl.int32) != 0, SIZES[i], 0)
            if GUARDED:
                end = tl.where(tl.load(finite_ptr).to(tl.int32) != 0, end, 0)
            known = at < end
            w = tl.load(weights[i] + at, mask=known, other=0.0)
            v = tl.load(velocities[i] + at, mask=known, other=0.0)
            g = tl.load(gradients[i] + at, mask=known, other=0.0).to(tl.float32)
            v = momentum * v - rate * (g + decay * w)
            w += v
            tl.store(velocities[i] + at, v, mask=known)
            tl.store(weights[i] + at, w, mask=known)
            if COPIED[i]:
                tl.store(copies[i] + at, w.to(copies[i].dtype.element_ty), mask=known)


def update(
    weights: list[Tensor], velocities: list[Tensor], gradients: list[Tensor], copies: list[Tensor], numbers: Tensor,
    finite: Tensor | None,
) -> None:  # fmt: skip
    for weight, velocity, copy in zip(weights, velocities, copies, strict=True):
        assert velocity.stride() == weight.stride(), "they are taken in the order in which they lie in memory"
        assert not copy.numel() or copy.stride() == weight.stride()
    gradients = [_lying_as(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True)]
    first = [0]
    for weight in weights:
        first.append(first[-1] + triton.cdiv(weight.numel(), _BLOCK))
    kernel[(first[-1],)](
        tuple(weights), tuple(velocities), tuple(gradients), tuple(copies), numbers, numbers if finite is None else finite,
        SIZES=tuple(weight.numel() for weight in weights), FIRST=tuple(first), COPIED=tuple(copy.numel() > 0 for copy in copies),
        GUARDED=finite is not None, BLOCK=_BLOCK,
    )  # fmt: skip


def _lying_as(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the weight's order in memory; most are."""
    if gradient.stride() == weight.stride() or not gradient.numel():  # a frozen one may have none
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
