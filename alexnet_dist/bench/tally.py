"""What a step asks of its device, counted operation by operation: launches, memory traffic, times that the host waits for it."""

import math
from collections import Counter, defaultdict
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alexnet_dist.kernels.launches import Launches, launches

PREPROCESSING, LOSS = "preprocessing", "loss"

# Operations that reserve memory, or name it anew, and launch nothing.
_NO_LAUNCH = ("aten.empty", "aten.new_empty", "aten._unsafe_view", "aten.lift_fresh", "aten.set_")
# Operations that write all of the tensor that they are given first, and do not read it.
_WRITE_ONLY = ("aten.copy_", "aten.zero_", "aten.fill_", "aten._foreach_zero_", "aten._foreach_copy_")
_READ_BY_HOST = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.equal", "aten.nonzero", "aten.item")
# torch's kernels for lists of tensors take so many values a block, and so many blocks a launch.
_FOREACH_CHUNK, _FOREACH_BLOCKS = 65536, 320


# By name: `launches`, `synchronisations` and `bytes`, those of each operation's inputs and outputs, of which a broadcast value
# counts once.
Count = Counter[str]


class Tally(TorchDispatchMode):
    """Counts, within it, the operations of tensors that hold nothing (`meta`), by the part of the step.

    What the host reads of such a tensor is 1, so that a step goes on as one that is well. torch's operations are counted as its
    kernels for a GPU make them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parts = [PREPROCESSING]
        self.counts: defaultdict[str, Count] = defaultdict(Counter)

    def begin(self, part: str) -> None:
        """What follows is of this part, until its `end`; beside the parts it is PREPROCESSING before the first, and then LOSS."""
        self._parts[0] = LOSS
        self._parts.append(part)

    def end(self) -> None:
        self._parts.pop()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(function)
        count = self.counts[self._parts[-1]]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if (_host_reads(name, inputs, kwargs) or _host_writes(name, inputs, kwargs)) and not kwargs.get("non_blocking"):
            count["synchronisations"] += 1
        if _host_reads(name, inputs, kwargs):
            return _as_read(name, inputs, kwargs)
        made = _laid_out(name, args, function(*args, **kwargs))
        if function.is_view or name.startswith(_NO_LAUNCH):
            return made
        outputs = [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        if not any(tensor.is_meta for tensor in (*inputs, *outputs)):
            return made
        made_by = _launches(function, name, args)
        read = inputs[1:] if name.startswith(_WRITE_ONLY) else inputs
        written = _written(function, args) if made is None else outputs
        count["launches"] += made_by.kernels + len(made_by.copied)
        count["bytes"] += sum(map(_bytes, [*read, *written, *made_by.copied, *made_by.copied]))
        count["bytes"] -= sum(map(_bytes, made_by.unread))
        return made


def _launches(function: Any, name: str, args: Any) -> Launches:
    operation = name.partition(".")[2].partition(".")[0]
    match function.namespace, operation:
        case "alexnet", _:
            return launches(operation, args)
        case "aten", "convolution":
            return Launches(1 + (args[2] is not None))
        case "aten", "convolution_backward":
            return Launches(sum(args[10]))
        case "aten", _ if operation.startswith(("_foreach_", "_fused_")):
            blocks = sum(math.ceil(tensor.numel() / _FOREACH_CHUNK) for tensor in args[0])
            return Launches(math.ceil(blocks / _FOREACH_BLOCKS))
        case "c10d", "recv_":
            return Launches(0)  # goes with the other half of its pair of messages
    return Launches(1)


def _written(function: Any, args: Any) -> list[torch.Tensor]:
    """What an operation that returns nothing writes, of those of its arguments that it may."""
    written = [given for said, given in zip(function._schema.arguments, args, strict=False) if said.is_write]
    return [leaf for leaf in tree_leaves(written) if isinstance(leaf, torch.Tensor)]


def _laid_out(name: str, args: Any, made: Any) -> Any:
    """As cuDNN lays out what a convolution gives, which torch cannot know of tensors without a device: as it was given."""
    if not name.startswith("aten.convolution") or not any(_channels_last(x) for x in args[:3] if isinstance(x, torch.Tensor)):
        return made

    def laid_out(x: torch.Tensor | None) -> torch.Tensor | None:
        return x.contiguous(memory_format=torch.channels_last) if x is not None and x.dim() == 4 else x

    return tuple(map(laid_out, made)) if isinstance(made, tuple) else laid_out(made)


def _channels_last(x: torch.Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


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
