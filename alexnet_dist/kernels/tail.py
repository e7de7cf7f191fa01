"""What follows a convolution as one operation, `alexnet::follow`: activation, response norm, max pooling, relu; any of them.

torch computes each in a pass of its own, and its response norm in several; that takes as long as the products do. On a CPU it is
tail.cpp, on a GPU kernels of Triton. Of equal values in a pooling's window the first takes the gradient, as in torch.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_dist.kernels.native import Toolchain, load_library
from alexnet_dist.kernels.operation import on_gpus

_DTYPES = {torch.float32: "float", torch.bfloat16: "bf16"}


@on_gpus("alexnet::follow", "tail.forward")
def follow(
    x: Tensor, bias: Tensor | None, activation: str, norm: list[float], pool: list[int], relu_last: bool
) -> tuple[Tensor, Tensor]:
    """Maps [N, C, H, W] -> maps [N, C, H', W'] of the same dtype, channels last in memory, and uint8 [N, H', W', C]: which
    pixel of its window each value came from, or 255 where the last relu cut it off (empty without a pooling).

    `bias` float32 [C] is added first. `activation` is "", relu, tanh or sigmoid; `norm` is [size, alpha, beta, k], or empty
    (`norms.response_norm`); `pool` is [kernel, stride, pad, 1 where one window
    more is to cover the edge], or empty. `relu_last` needs a pool. Values are computed in float32.
    """
    y = empty_maps(x, pool)
    return y, torch.empty(y.permute(0, 2, 3, 1).shape if pool else 0, dtype=torch.uint8, device=x.device)


@on_gpus("alexnet::follow_backward", "tail.backward")
def follow_backward(
    gradient: Tensor, x: Tensor, bias: Tensor | None, index: Tensor, activation: str, norm: list[float], pool: list[int]
) -> tuple[Tensor, Tensor]:
    """The gradients of x, channels last, and of bias (empty where there is none), from that of `follow`'s maps."""
    return empty_maps(x, []), x.new_empty(0, dtype=torch.float32) if bias is None else torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, bias, *ctx.said, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, bias, output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, bias, index = ctx.saved_tensors
    of_x, of_bias = follow_backward(gradient, x, bias, index, *ctx.said)
    return of_x, None if bias is None else of_bias, None, None, None, None


follow.register_autograd(_backward, setup_context=_keep)


def empty_maps(x: Tensor, pool: list[int]) -> Tensor:
    """Room for what becomes of x [N, C, H, W]: of its dtype, channels last, dense. No view, so that it is known by its parts."""
    images, channels, *sides = x.shape
    if pool:
        sides = [_windows(side, *pool) for side in sides]
    return torch.empty(images, channels, *sides, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _windows(side: int, kernel: int, stride: int, pad: int, ceil: int) -> int:
    if not ceil:
        return (side + 2 * pad - kernel) // stride + 1
    windows = -((kernel - side - 2 * pad) // stride) + 1
    return windows - ((windows - 1) * stride >= side + pad)  # the last one begins within the map


def lies_in_pixels(x: Tensor) -> bool:
    """Whether the pixels of maps follow one another at one distance, each with its channels side by side."""
    image, channel, row, column = x.stride()
    return channel == 1 and row == column * x.shape[3] and image == row * x.shape[2] and column >= x.shape[1]


# ------------------------------------------------------------------------------------------------------------------ on a CPU


class _Shape(ctypes.Structure):
    """The struct Tail of tail.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("height", "width", "channels")),
        *((name, ctypes.c_int32) for name in ("relu_first", "norm_size")),
        *((name, ctypes.c_float) for name in ("norm_k", "norm_alpha", "norm_beta")),
        *((name, ctypes.c_int32) for name in ("pool_kernel", "pool_stride", "pool_pad")),
        *((name, ctypes.c_int64) for name in ("out_height", "out_width")),
        ("relu_last", ctypes.c_int32),
    ]  # fmt: skip


def load(toolchain: Toolchain, warn: Callable[[str], None]) -> None:
    """Compile tail.cpp for this processor; from then on it does `follow` on a CPU. Raises CompilerError."""
    library = load_library(Path(__file__).with_name("tail.cpp"), toolchain, warn)
    run = partial(_run, library, ThreadPoolExecutor(thread_name_prefix="tail"))

    @follow.register_kernel("cpu")
    def _(x, bias, activation, norm, pool, relu_last):  # type: ignore[no-untyped-def]
        x = _activated(x, bias, activation).contiguous(memory_format=torch.channels_last)
        y = empty_maps(x, pool)
        index = torch.empty(y.permute(0, 2, 3, 1).shape if pool else 0, dtype=torch.uint8)
        run("forward", x, y, _shape(x, y, activation, norm, pool, relu_last), x, y, index)
        return y, index

    @follow_backward.register_kernel("cpu")
    def _(gradient, x, bias, index, activation, norm, pool):  # type: ignore[no-untyped-def]
        activated = _activated(x, bias, activation).contiguous(memory_format=torch.channels_last)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = empty_maps(x, [])
        shape = _shape(activated, gradient, activation, norm, pool, relu_last=False)
        run("backward", x, gradient, shape, activated, index, gradient, of_x)
        if activation in ("tanh", "sigmoid"):
            of_x = getattr(torch.ops.aten, f"{activation}_backward")(of_x, activated)
        return of_x, x.new_empty(0, dtype=torch.float32) if bias is None else of_x.float().sum((0, 2, 3))


def _activated(x: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """tail.cpp's own activation is the relu."""
    x = x if bias is None else x + bias.view(-1, 1, 1).to(x.dtype)
    return getattr(torch, activation)(x) if activation in ("tanh", "sigmoid") else x


def _shape(x: Tensor, y: Tensor, activation: str, norm: list[float], pool: list[int], relu_last: bool) -> _Shape:
    size, alpha, beta, k = norm or (0, 0, 0, 0)
    return _Shape(
        *x.shape[2:], x.shape[1], activation == "relu", int(size), k, alpha / max(1, size), beta, *(pool[:3] or (0, 1, 0)),
        *y.shape[2:], relu_last,
    )  # fmt: skip


def _run(
    library: ctypes.CDLL, pool: ThreadPoolExecutor, name: str, x: Tensor, y: Tensor, shape: _Shape, *tensors: Tensor
) -> None:
    """Call a function of the library on all images, over torch's number of threads; an empty tensor is a null pointer."""
    function = getattr(library, f"tail_{name}_{_DTYPES[x.dtype]}")
    pointers = [ctypes.c_void_p(tensor.data_ptr() if tensor.numel() else None) for tensor in tensors]
    images = len(x)
    threads = min(torch.get_num_threads(), images)
    bounds = [ctypes.c_int64(images * i // threads) for i in range(threads + 1)] if threads else []

    def part(i: int) -> None:
        function(ctypes.byref(shape), *pointers, bounds[i], bounds[i + 1])

    if threads == 1:
        part(0)
    else:
        list(pool.map(part, range(threads)))
