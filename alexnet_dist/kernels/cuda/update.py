"""The update of all parameters, in one pass over weights, velocities and gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048


@triton.jit
def kernel(
    weights, velocities, gradients, copies, rates_ptr, decays_ptr, finite_ptr, momentum, SIZES: tl.constexpr, FIRST: tl.constexpr,
    COPIED: tl.constexpr, GUARDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """v <- momentum v - rate (g + decay w); w <- w + v; copy <- w. The programs from FIRST[i] on have parameter i."""
    program = tl.program_id(0)
    for i in tl.static_range(len(SIZES)):
        if (program >= FIRST[i]) & (program < FIRST[i + 1]):
            at = (program - FIRST[i]).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
            known = at < SIZES[i]
            if GUARDED:
                known = known & (tl.load(finite_ptr).to(tl.int32) != 0)
            w = tl.load(weights[i] + at, mask=known, other=0.0)
            v = tl.load(velocities[i] + at, mask=known, other=0.0)
            g = tl.load(gradients[i] + at, mask=known, other=0.0).to(tl.float32)
            rate, decay = tl.load(rates_ptr + i).to(tl.float32), tl.load(decays_ptr + i).to(tl.float32)
            v = momentum * v - rate * (g + decay * w)
            w += v
            tl.store(velocities[i] + at, v, mask=known)
            tl.store(weights[i] + at, w, mask=known)
            if COPIED[i]:
                tl.store(copies[i] + at, w.to(copies[i].dtype.element_ty), mask=known)


def update(
    weights: list[Tensor], velocities: list[Tensor], gradients: list[Tensor], copies: list[Tensor], rates: Tensor,
    decays: Tensor, momentum: float, finite: Tensor | None,
) -> None:  # fmt: skip
    gradients = [_lying_as(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True)]
    first = [0]
    for weight in weights:
        first.append(first[-1] + triton.cdiv(weight.numel(), _BLOCK))
    kernel[(first[-1],)](
        tuple(weights), tuple(velocities), tuple(gradients), tuple(copies), rates, decays, rates if finite is None else finite,
        momentum, SIZES=tuple(weight.numel() for weight in weights), FIRST=tuple(first),
        COPIED=tuple(copy.numel() > 0 for copy in copies), GUARDED=finite is not None, BLOCK=_BLOCK,
    )  # fmt: skip


def _lying_as(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the weight's order in memory; most are."""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
