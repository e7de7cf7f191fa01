"""What follows a layer's product, in steps that are one operation each, and the one place that chooses how a step is done."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_dist.kernels.dropout import DropoutKey, keep_mask
from alexnet_dist.kernels.norms import response_norm, spatial_norm
from alexnet_dist.kernels.spatial import spatial_norm as spatial_norm_of_gpu
from alexnet_dist.kernels.tail import follow as maps_followed
from alexnet_dist.kernels.units import activate

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class Norm(NamedTuple):
    size: int
    alpha: float
    beta: float
    k: float


class Pool(NamedTuple):
    kernel: int
    stride: int
    pad: int
    ceil: bool = False


@dataclass(frozen=True)
class Step:
    """What is done at once, in the order of the fields; None, "" or False where one is not among it. `dropout` is its p."""

    activation: str = ""
    norm: Norm | None = None
    max_pool: Pool | None = None
    relu_last: bool = False
    dropout: float | None = None
    spatial_norm: Norm | None = None
    avg_pool: Pool | None = None

    @property
    def in_one_pass(self) -> bool:
        """Whether `kernels.tail` does it: it notes a place in a pooling's window in a byte."""
        return (self.norm or self.max_pool) is not None and (self.max_pool is None or self.max_pool.kernel < 16)

    @property
    def adds_bias(self) -> bool:
        """Whether a GPU's operation adds a bias on the way."""
        return self.in_one_pass or self.each_value

    @property
    def each_value(self) -> bool:
        """Whether it is done to each value by itself, so that maps may be done together."""
        beside = self.norm, self.max_pool, self.spatial_norm, self.avg_pool
        return not any(beside) and (bool(self.activation) or self.dropout is not None)


# What may stand in a step before each of its fields.
_BEHIND: dict[str, set[str]] = {
    "activation": set(),
    "norm": {"activation"},
    "max_pool": {"activation", "norm"},
    "relu_last": {"activation", "norm", "max_pool"},
    "dropout": {"activation"},
    "spatial_norm": set(),
    "avg_pool": set(),
}


def join(operations: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Step]:
    """The operations, of a kind and with options as in a net's table; those that are done at once are one step."""
    steps = [Step()]
    for kind, options in operations:
        if kind == "identity":
            continue
        field, value = _field(kind, options)
        # A pooling that keeps every value keeps no index either, in which the relu is noted.
        if kind == "relu" and (pool := steps[-1].max_pool) and pool.kernel > 1:
            field, value = "relu_last", True
        if not _present(steps[-1]) <= _BEHIND[field]:
            steps.append(Step())
            field, value = _field(kind, options)
        steps[-1] = replace(steps[-1], **{field: value})
    return [step for step in steps if _present(step)]


def _field(kind: str, options: Mapping[str, Any]) -> tuple[str, Any]:
    if kind in ACTIVATIONS:
        return "activation", kind
    if kind == "dropout":
        return kind, options["p"]
    if kind.endswith("_norm"):
        norm = Norm(int(options["size"]), options["alpha"], options["beta"], options["k"])
        return kind.removeprefix("response_"), norm
    return kind, Pool(int(options["kernel"]), int(options["stride"]), int(options["pad"]), bool(options.get("ceil")))


def _present(step: Step) -> set[str]:
    return {name for name in _BEHIND if getattr(step, name) not in ("", None, False)}


def follow(x: Tensor, step: Step, native: bool, bias: Tensor | None = None, key: DropoutKey | None = None) -> Tensor:
    """The step of maps [N, C, H, W] or units [N, units], with `bias` [C] added before it; differentiable.

    `native`: by the fused operations of the device, else by torch's. In testing there is no `key`, and outputs are scaled
    instead of dropped (paper, section 4.2).
    """
    if native and step.in_one_pass:
        return maps_followed(x, bias, step.activation, list(step.norm or ()), list(step.max_pool or ()), step.relu_last)[0]
    if native and on_gpu(x) and step.adds_bias:
        y = activate(x, bias, step.activation, step.dropout, key)
        return y if key or step.dropout is None else y * (1 - step.dropout)
    if native and on_gpu(x) and step.spatial_norm:
        return spatial_norm_of_gpu(x, list(step.spatial_norm))[0]
    return by_torch(x, step, key, bias)


def on_gpu(x: Tensor) -> bool:
    """Tensors without a device of their own (meta) pass for a GPU's."""
    return x.device.type != "cpu"


def by_torch(x: Tensor, step: Step, key: DropoutKey | None, bias: Tensor | None = None) -> Tensor:
    """The step in plain torch, an operation after another: the reference."""
    if bias is not None:
        x = x + bias.view(-1, *[1] * (x.dim() - 2)).to(x.dtype)
    if step.activation:
        x = ACTIVATIONS[step.activation](x)
    if step.norm:
        x = response_norm(x, *step.norm)
    if step.max_pool:
        x = F.max_pool2d(x, *step.max_pool[:3], ceil_mode=step.max_pool.ceil)
    if step.relu_last:
        x = F.relu(x)
    if step.spatial_norm:
        x = spatial_norm(x, *step.spatial_norm)
    if step.avg_pool:
        x = F.avg_pool2d(x, *step.avg_pool[:3], ceil_mode=step.avg_pool.ceil)
    if step.dropout is None:
        return x
    if key is None:
        return x * (1 - step.dropout)
    pixels = math.prod(x.shape[2:])
    key = replace(key, first_unit=key.first_unit * pixels)
    return x * keep_mask(key, x.shape[0], x.shape[1] * pixels, step.dropout, x.device).view(x.shape)
