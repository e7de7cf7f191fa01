"""What follows a convolution, computed in one pass over the maps where it can be: relu, response norm, max pooling, relu.

torch computes each in a pass of its own, and its response norm in several; on a CPU that takes as long as the products do.
"""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from alexnet_dist.kernels.native import load_library
from alexnet_dist.model.table import Operation

_DTYPES = {torch.float32: "float", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Tail:
    """A run of operations that Kernels.apply does at once, in the order of the fields; a norm or a pooling is among them."""

    relu_first: bool
    norm: Operation | None
    pool: Operation | None
    relu_last: bool


Step = Operation | Tail


def join_operations(operations: Sequence[Operation]) -> list[Step]:
    """The same operations with those that Kernels.apply does at once joined to Tails. Without a norm or a pooling nothing is."""
    steps: list[Step] = []
    rest = list(operations)
    while rest:
        taken: list[Operation | None] = []
        at = 0
        for kind in ("relu", "response_norm", "max_pool", "relu"):
            found = at < len(rest) and _joins(rest[at], kind)
            taken.append(rest[at] if found else None)
            at += found
        first, norm, pool, last = taken
        if norm or pool:
            last = last if pool else None
            steps.append(Tail(first is not None, norm, pool, last is not None))
            del rest[: sum(operation is not None for operation in (first, norm, pool, last))]
        else:
            steps.append(rest.pop(0))
    return steps


def _joins(operation: Operation, kind: str) -> bool:
    # Where in its window a pooling found a value is kept in a byte.
    return operation.kind == kind and operation.reads == "own" and (kind != "max_pool" or operation.options["kernel"] < 16)


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


class Kernels:
    """tail.cpp for this processor.

    Raises:
        CompilerError: it cannot be compiled here.
    """

    def __init__(self) -> None:
        self._library = load_library(Path(__file__).with_name("tail.cpp"))
        self._pool = ThreadPoolExecutor(thread_name_prefix="tail")

    def take(self, x: torch.Tensor) -> bool:
        """Whether `apply` does these maps: float32 or bfloat16 on a CPU."""
        return x.device.type == "cpu" and x.dtype in _DTYPES and x.dim() == 4

    def apply(self, x: torch.Tensor, tail: Tail) -> torch.Tensor:
        """Maps [N, C, H, W] -> [N, C, H', W'], of the same dtype, channels last in memory; differentiable once.

        Values are computed in float32. The norm is that of `layers.response_norm` (paper, section 3.3), within rounding. Of
        equal values in a pooling's window the first takes the gradient, as in torch.
        """
        return _Apply.apply(x, tail, self)

    def run(self, name: str, dtype: torch.dtype, shape: _Shape, images: int, *tensors: torch.Tensor | None) -> None:
        """Call a function of the library on all images, over torch's number of threads; None is a null pointer."""
        function = getattr(self._library, f"tail_{name}_{_DTYPES[dtype]}")
        pointers = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
        threads = min(torch.get_num_threads(), images)
        bounds = [ctypes.c_int64(images * i // threads) for i in range(threads + 1)] if threads else []

        def part(i: int) -> None:
            function(ctypes.byref(shape), *pointers, bounds[i], bounds[i + 1])

        if threads == 1:
            part(0)
        else:
            list(self._pool.map(part, range(threads)))


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, tail: Tail, kernels: Kernels) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        norm = tail.norm.options if tail.norm else {"size": 0, "k": 0, "alpha": 0, "beta": 0}
        pool = tail.pool.options if tail.pool else {"kernel": 0, "stride": 1, "pad": 0}
        kernel, stride, pad = (int(pool[key]) for key in ("kernel", "stride", "pad"))
        out = [tail.pool.out_size(side) if tail.pool else side for side in (height, width)]
        shape = _Shape(
            height, width, channels,
            tail.relu_first, int(norm["size"]), norm["k"], norm["alpha"] / max(1, norm["size"]), norm["beta"],
            kernel, stride, pad, *out, tail.relu_last,
        )  # fmt: skip
        y = x.new_empty(images, *out, channels).permute(0, 3, 1, 2)
        index = torch.empty(y.numel(), dtype=torch.uint8) if kernel and ctx.needs_input_grad[0] else None
        kernels.run("forward", x.dtype, shape, images, x, y, index)
        ctx.save_for_backward(x, index)
        ctx.shape, ctx.kernels = shape, kernels
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, index = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        x_gradient = torch.empty_like(x)
        ctx.kernels.run("backward", x.dtype, ctx.shape, len(x), x, index, gradient, x_gradient)
        return x_gradient, None, None
