"""Cross-entropy of logits that several towers hold, image by image; computed in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def largest_kernel(logits, strides, largest_ptr, CLASSES: tl.constexpr, C: tl.constexpr):
    image = tl.program_id(0)
    column = tl.arange(0, C)
    largest = tl.full((C,), float("-inf"), tl.float32)
    for i in tl.static_range(len(logits)):
        at = image.to(tl.int64) * strides[i] + column
        part = tl.load(logits[i] + at, mask=column < CLASSES, other=float("-inf")).to(tl.float32)
        largest = tl.where((part > largest) | (part != part), part, largest)
    # What is no number is the largest, as in torch.
    bad = tl.sum((largest != largest).to(tl.int32), 0) > 0
    tl.store(largest_ptr + image, tl.where(bad, float("nan"), tl.max(largest, 0)))


@triton.jit
def sums_kernel(
    logits, strides, largest_ptr, labels_ptr, sums_ptr, images, first_class, CLASSES: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    image = tl.program_id(0)
    column = tl.arange(0, C)
    largest, label = tl.load(largest_ptr + image), tl.load(labels_ptr + image) - first_class
    total, own, before = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    for i in tl.static_range(len(logits)):
        at = image.to(tl.int64) * strides[i] + column
        shifted = tl.load(logits[i] + at, mask=column < CLASSES, other=float("-inf")).to(tl.float32) - largest
        place = column + i * CLASSES
        total += tl.exp(shifted)
        own += tl.where((place == label) & (column < CLASSES), shifted, 0.0)
        before += tl.where((shifted == 0) & (place < label), 1.0, 0.0)
    tl.store(sums_ptr + image, tl.sum(total, 0))
    tl.store(sums_ptr + images + image, tl.sum(own, 0))
    tl.store(sums_ptr + 2 * images + image, tl.sum(before, 0))


@triton.jit
def loss_kernel(sums_ptr, loss_ptr, wrong_ptr, IMAGES: tl.constexpr, N: tl.constexpr):
    losses, right = tl.zeros((N,), tl.float32), tl.zeros((N,), tl.int32)
    for first in range(0, IMAGES, N):
        image = first + tl.arange(0, N)
        known = image < IMAGES
        total = tl.load(sums_ptr + image, mask=known, other=1.0)
        own = tl.load(sums_ptr + IMAGES + image, mask=known, other=0.0)
        before = tl.load(sums_ptr + 2 * IMAGES + image, mask=known, other=0.0)
        losses += tl.log(total) - own
        right += (known & (own == 0) & (before == 0)).to(tl.int32)
    tl.store(loss_ptr, tl.sum(losses, 0) / IMAGES)
    tl.store(wrong_ptr, (IMAGES - tl.sum(right, 0)).to(tl.int64))


@triton.jit
def gradient_kernel(
    logits, strides, gradients, largest_ptr, sums_ptr, labels_ptr, loss_gradient_ptr, images, first_class, CLASSES: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0)
    column = tl.arange(0, C)
    largest, total, label = tl.load(largest_ptr + image), tl.load(sums_ptr + image), tl.load(labels_ptr + image) - first_class
    scale = tl.load(loss_gradient_ptr) / images
    for i in tl.static_range(len(logits)):
        at = image.to(tl.int64) * strides[i] + column
        part = tl.exp(tl.load(logits[i] + at, mask=column < CLASSES, other=0.0).to(tl.float32) - largest) / total
        part = (part - tl.where(column + i * CLASSES == label, 1.0, 0.0)) * scale
        to = gradients[i] + image.to(tl.int64) * CLASSES + column
        tl.store(to, part.to(gradients[i].dtype.element_ty), mask=column < CLASSES)


def largest(logits: list[Tensor]) -> Tensor:
    found = logits[0].new_empty(len(logits[0]), dtype=torch.float32)
    largest_kernel[(len(found),)](*_rows(logits), found, **_said(logits))
    return found


def sums(logits: list[Tensor], largest: Tensor, labels: Tensor, first_class: int) -> Tensor:
    made = largest.new_empty(3, len(largest))
    sums_kernel[(len(largest),)](*_rows(logits), largest, labels, made, len(largest), first_class, **_said(logits))
    return made


def loss(sums: Tensor) -> tuple[Tensor, Tensor]:
    mean, wrong = sums.new_empty(()), sums.new_empty((), dtype=torch.int64)
    loss_kernel[(1,)](sums, mean, wrong, IMAGES=sums.shape[1], N=1024)
    return mean, wrong


def gradient(
    logits: list[Tensor], largest: Tensor, sums: Tensor, labels: Tensor, loss_gradient: Tensor, first_class: int
) -> list[Tensor]:
    made = [part.new_empty(part.shape) for part in logits]
    gradient_kernel[(len(largest),)](
        *_rows(logits), tuple(made), largest, sums, labels, loss_gradient, len(largest), first_class, **_said(logits)
    )
    return made


def _rows(logits: list[Tensor]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    rows = tuple(part if part.stride(1) == 1 else part.contiguous() for part in logits)
    return rows, tuple(part.stride(0) for part in rows)


def _said(logits: list[Tensor]) -> dict[str, int]:
    classes = logits[0].shape[1]
    return {"CLASSES": classes, "C": triton.next_power_of_2(classes)}
