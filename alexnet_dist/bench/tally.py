"""What a step asks of its device, counted operation by operation: launches, memory traffic, times that the host waits for it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that reserve memory, or name it anew, and launch nothing.
_NO_LAUNCH = ("aten.empty", "aten.new_empty", "aten._unsafe_view", "aten.lift_fresh", "aten.set_")
# Operations that write all of the tensor that they are given first, and do not read it.
_WRITE_ONLY = ("aten.copy_", "aten.zero_", "aten.fill_", "aten._foreach_zero_", "aten._foreach_copy_")
_READ_BY_HOST = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.equal", "aten.nonzero", "aten.item")
# torch's kernels for lists of tensors take so many values a block, and so many blocks a launch.
_FOREACH_CHUNK, _FOREACH_BLOCKS = 65536, 320


@dataclass
class Count:
    """`bytes` are those of each operation's inputs and outputs, of which a broadcast value counts once."""

    launches: int = 0
    bytes: int = 0
    synchronisations: int = 0


class Tally(TorchDispatchMode):
    """Counts, within it, the operations of tensors that hold nothing (`meta`), by the part of the step that `part` names.

    What the host reads of such a tensor is 1, so that a step goes on as one that is well. `fused` gives the launches of a fused
    operation by its name; others are counted as torch's kernels for a GPU make them.
    """

    def __init__(self, fused: dict[str, int]) -> None:
        super().__init__()
        self._fused = fused
        self._parts: list[str] = []
        self.counts: dict[str, Count] = {}

    def begin(self, part: str) -> None:
        self._parts.append(part)

    def end(self) -> None:
        self._parts.pop()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.begin(name)
        yield
        self.end()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(function)
        count = self.counts.setdefault(self._parts[-1] if self._parts else "", Count())
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if (_host_reads(name, inputs, kwargs) or _host_writes(name, inputs, kwargs)) and not kwargs.get("non_blocking"):
            count.synchronisations += 1
        if _host_reads(name, inputs, kwargs):
            return _as_read(name, inputs, kwargs)
        made = function(*args, **kwargs)
        if function.is_view or name.startswith(_NO_LAUNCH):
            return made
        outputs = [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        if not any(tensor.is_meta for tensor in (*inputs, *outputs)):
            return made
        count.launches += self._launches(function, name, args)
        count.bytes += sum(map(_bytes, inputs[1:] if name.startswith(_WRITE_ONLY) else inputs)) + sum(map(_bytes, outputs))
        return made

    def _launches(self, function: Any, name: str, args: Any) -> int:
        operation = name.partition(".")[2].partition(".")[0]
        match function.namespace, operation:
            case "aten", "convolution":
                return 1 + (args[2] is not None)
            case "aten", "convolution_backward":
                return sum(args[10])
            case "aten", _ if operation.startswith(("_foreach_", "_fused_")):
                blocks = sum(math.ceil(tensor.numel() / _FOREACH_CHUNK) for tensor in args[0])
                return math.ceil(blocks / _FOREACH_BLOCKS)
            case "c10d", "recv_":
                return 0  # goes with the other half of its pair of messages
            case "aten" | "c10d", _:
                return 1
        return self._fused[f"{function.namespace}::{operation}"]


def _host_reads(name: str, inputs: list[torch.Tensor], kwargs: dict[str, Any]) -> bool:
    """Whether values go from the device to the host."""
    if name.startswith("aten._to_copy"):
        return inputs[0].is_meta and torch.device(kwargs.get("device") or "meta").type != "meta"
    if name.startswith("aten.copy_"):
        return inputs[1].is_meta and not inputs[0].is_meta
    return name.startswith(_READ_BY_HOST) and inputs[0].is_meta


def _host_writes(name: str, inputs: list[torch.Tensor], kwargs: dict[str, Any]) -> bool:
    """Whether values go from the host to the device. A scalar is handed to the kernel that wants it."""
    if name.startswith("aten._to_copy"):
        return not inputs[0].is_meta and torch.device(kwargs.get("device") or "cpu").type == "meta"
    return any(tensor.is_meta for tensor in inputs) and any(tensor.dim() and not tensor.is_meta for tensor in inputs)


def _as_read(name: str, inputs: list[torch.Tensor], kwargs: dict[str, Any]) -> Any:
    """What the host is told that it reads."""
    if name.startswith("aten._to_copy"):
        return torch.ones(inputs[0].shape, dtype=kwargs.get("dtype") or inputs[0].dtype)
    if name.startswith("aten.copy_"):
        return inputs[0].fill_(1)
    return torch.ones((), dtype=inputs[0].dtype).item()


def _bytes(tensor: torch.Tensor) -> int:
    values = math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return values * tensor.itemsize if tensor.is_meta else 0
