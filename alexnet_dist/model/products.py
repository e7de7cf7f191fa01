"""The products of a layer. One that reads all towers is taken apart so that messages travel while there is something to compute.

A tower's output is the product with its own maps, which are here, plus the product with the others', which come meanwhile.
Backward, the gradient that the others wait for is computed first and travels while the rest is computed. The sums are the same
where nothing travels, so that the bits of two towers do not depend on how many processes hold them.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from alexnet_dist.kernels.steps import on_gpu
from alexnet_dist.model.table import Layer


class Arrival(Protocol):
    def wait(self) -> list[torch.Tensor]:
        """What each share sent here, in the order of the shares; the entry of this share is what `begin` was given."""
        ...


class Crossing(Protocol):
    """What joins the `size` shares of a net, of which this process holds the one at `index`."""

    @property
    def size(self) -> int: ...

    @property
    def index(self) -> int: ...

    def begin(self, outgoing: list[torch.Tensor]) -> Arrival:
        """Send outgoing[i] to share i, for all but this one; tensors of the same shape come back."""
        ...

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        """This share's maps [N, C / size, ...] -> all shares' [N, C, ...]; differentiable."""
        ...


class Alone:
    """The crossing of a process that holds the whole net: nothing travels."""

    size, index = 1, 0

    def begin(self, outgoing: list[torch.Tensor]) -> "Alone":
        self._outgoing = outgoing
        return self

    def wait(self) -> list[torch.Tensor]:
        return self._outgoing

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        return part


def products(
    layer: Layer,
    towers: range,
    maps: Sequence[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    crossing: Crossing,
    copy: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """The convolution or full connection of `layer` for the held `towers`.

    `maps` are what the held towers have [N, C, H, W] or [N, units], `weight` and `bias` the rows of the held towers. Returns
    [N, filters / towers, H', W'] or [N, filters / towers] for each. Under autocast the products are of its dtype. `copy` is the
    weight in that dtype, where one is kept; the gradient is the weight's.
    """
    joint = layer.reads == "all" and layer.towers > 1
    # On a GPU that holds all towers nothing is gained by taking a product apart, but for the bits of several processes. Maps that
    # lie together anyway are convolved at once, tower by tower.
    alone = crossing.size == 1 and on_gpu(maps[0]) and not torch.are_deterministic_algorithms_enabled()
    beside = layer.kind == "conv" and layer.reads == "own" and layer.towers > 1 and together(maps) is not None
    whole = alone and (joint or beside)
    if whole:
        maps = [_join(maps)]
    if layer.kind == "fc":
        maps = [x.flatten(1) for x in maps]
    kind = "cuda" if maps[0].is_meta else maps[0].device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        narrow = {id(x): x.to(dtype) for x in maps}  # towers may read one image
        maps, bias = [narrow[id(x)] for x in maps], bias if bias is None else bias.to(dtype)
        weight = weight.to(dtype) if copy is None else weight
    else:
        copy = None
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        if joint and not whole:
            return list(_ProductOfAll.apply(layer, towers, crossing, weight, copy, bias, *maps))
        outputs = _OwnProducts.apply(layer, weight, copy, bias, *maps)
    return list(outputs[0].chunk(len(towers), dim=1)) if whole else list(outputs)


class _OwnProducts(torch.autograd.Function):
    """Each of the maps by its part of the rows."""

    @staticmethod
    def forward(ctx, layer, weight, copy, bias, *maps):  # type: ignore[no-untyped-def]
        used = weight if copy is None else copy
        ctx.layer, ctx.biased = layer, bias is not None
        ctx.save_for_backward(used, *maps)
        biases = [None] * len(maps) if bias is None else bias.chunk(len(maps))
        rows = zip(maps, used.chunk(len(maps)), biases, strict=True)
        return tuple(product(layer, x, weight, bias) for x, weight, bias in rows)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]
        used, *maps = ctx.saved_tensors
        rows = zip(gradients, maps, used.chunk(len(maps)), ctx.needs_input_grad[4:], strict=True)
        parts = [_gradients(ctx.layer, gradient, x, weight, [needed, True, ctx.biased]) for gradient, x, weight, needed in rows]
        of_maps, of_weights, of_biases = zip(*parts, strict=True)
        return None, _stack(of_weights), None, _stack(of_biases) if ctx.biased else None, *of_maps


class _ProductOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer, towers, crossing, weight, copy, bias, *maps):  # type: ignore[no-untyped-def]
        held = len(towers)
        used = weight if copy is None else copy
        arrival = crossing.begin([_join(maps)] * crossing.size)
        weights = [_own_and_others(rows, layer, tower) for rows, tower in zip(used.chunk(held), towers, strict=True)]
        biases = [None] * held if bias is None else bias.chunk(held)
        outputs = [product(layer, x, own, b) for x, (own, _), b in zip(maps, weights, biases, strict=True)]
        by_tower = [x for share in arrival.wait() for x in share.chunk(held, dim=1)]
        by_tower[towers.start : towers.stop] = maps
        others = [_join(by_tower[:tower] + by_tower[tower + 1 :]) for tower in towers]
        for output, x, (_, rest) in zip(outputs, others, weights, strict=True):
            _add_product(output, layer, x, rest)
        ctx.layer, ctx.towers, ctx.crossing, ctx.biased = layer, towers, crossing, bias is not None
        ctx.save_for_backward(used, *maps, *others)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]
        layer, towers, crossing, held = ctx.layer, ctx.towers, ctx.crossing, len(ctx.towers)
        weight, *read = ctx.saved_tensors
        maps, others = read[:held], read[held:]
        weights = [_own_and_others(rows, layer, tower) for rows, tower in zip(weight.chunk(held), towers, strict=True)]

        # The gradients of other towers' maps, from all outputs here that read them.
        of_others: dict[int, torch.Tensor] = {}
        for tower, gradient, x, (_, rest) in zip(towers, gradients, others, weights, strict=True):
            parts = _gradients(layer, gradient, x, rest, _OF_INPUT)[0].chunk(layer.towers - 1, dim=1)
            for other, part in zip([t for t in range(layer.towers) if t != tower], parts, strict=True):
                of_others[other] = of_others[other] + part if other in of_others else part
        outgoing = [
            maps[0] if share == crossing.index else _join([of_others[share * held + i] for i in range(held)])
            for share in range(crossing.size)
        ]
        arrival = crossing.begin(outgoing)

        of_maps = [_gradients(layer, g, x, own, _OF_INPUT)[0] for g, x, (own, _) in zip(gradients, maps, weights, strict=True)]
        of_weight = torch.empty_like(weight)
        for tower, gradient, x, y, rows in zip(towers, gradients, maps, others, of_weight.chunk(held), strict=True):
            _put_weight_gradient(rows, layer, tower, gradient, x, y)
        sums = [gradient.sum((0, *range(2, gradient.dim()))) for gradient in gradients] if ctx.biased else []
        for tower, total in zip(towers, of_maps, strict=True):
            if tower in of_others:
                total += of_others[tower]
        for share, received in enumerate(arrival.wait()):
            if share != crossing.index:
                for total, part in zip(of_maps, received.chunk(held, dim=1), strict=True):
                    total += part
        return None, None, None, of_weight, None, _stack(sums) if ctx.biased else None, *of_maps


def together(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The tensor that the parts are cut from, if they are all of it, along dimension 1 in their order. None too where somebody
    watches a part's gradient, which would not pass there."""
    if len(parts) == 1:
        return parts[0]
    whole, channel = parts[0]._base, 0
    if whole is None or any(part._base is not whole or part._backward_hooks for part in parts):
        return None
    for part in parts:
        if part.stride() != whole.stride() or part.storage_offset() != whole.storage_offset() + channel * whole.stride(1):
            return None
        channel += part.shape[1]
    return whole if channel == whole.shape[1] else None


def _join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    whole = together(parts)
    return torch.cat(list(parts), dim=1) if whole is None else whole


def _stack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _own_and_others(rows: torch.Tensor, layer: Layer, tower: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns of a tower's rows of the weight that read its own maps, and those that read the others'."""
    columns = rows.chunk(layer.towers, dim=1)
    return columns[tower], _join(columns[:tower] + columns[tower + 1 :])


def product(layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The convolution of maps [N, C, H, W], or the full connection of [N, C, H, W] or [N, units], without what follows it."""
    if layer.kind == "fc":
        return F.linear(x.flatten(1), weight, bias)
    return F.conv2d(_padded(layer, x), weight, bias, layer.stride, _pad(layer), groups=_groups(x, weight))


def _add_product(output: torch.Tensor, layer: Layer, x: torch.Tensor, weight: torch.Tensor) -> None:
    if layer.kind == "fc":
        output.addmm_(x, weight.t())
    else:
        output += product(layer, x, weight, None)


def _put_weight_gradient(
    rows: torch.Tensor, layer: Layer, tower: int, gradient: torch.Tensor, own: torch.Tensor, others: torch.Tensor
) -> None:
    """Write the gradient of a tower's rows of the weight, from its own maps and the others'."""
    columns = rows.chunk(layer.towers, dim=1)
    read = list(others.chunk(layer.towers - 1, dim=1))
    read.insert(tower, own)
    for column, x in zip(columns, read, strict=True):
        if layer.kind == "fc":
            torch.mm(gradient.t(), x, out=column)
        else:
            column.copy_(_gradients(layer, gradient, x, column, _OF_WEIGHT)[1])


def _groups(x: torch.Tensor, weight: torch.Tensor) -> int:
    """How many towers' maps x holds side by side, of which each has its own rows of the weight."""
    return x.shape[1] // weight.shape[1]


# Which gradients are wanted: of what is read, of the weight, of the bias.
_OF_INPUT, _OF_WEIGHT = [True, False, False], [False, True, False]


def _gradients(layer: Layer, gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, wanted: list[bool]) -> list[Any]:
    """Those of x, of the weight and of the bias that are wanted; None for the others."""
    if layer.kind == "fc":
        of_x = gradient @ weight if wanted[0] else None
        return [of_x, gradient.t() @ x if wanted[1] else None, gradient.sum(0) if wanted[2] else None]
    padded, stride, pad, sizes = _padded(layer, x), [layer.stride] * 2, [_pad(layer)] * 2, [len(weight)] if wanted[2] else None
    of_padded, of_weight, of_bias = torch.ops.aten.convolution_backward(
        gradient, padded, weight, sizes, stride, pad, [1, 1], False, [0, 0], _groups(padded, weight), wanted
    )
    return [of_padded if of_padded is None else _unpadded(layer, of_padded, x), of_weight, of_bias]


def _pad(layer: Layer) -> int:
    """The zeros that the convolution itself adds on every side; where the sides differ `_padded` has added them."""
    return layer.pad if layer.pad == layer.pad_end else 0


def _padded(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    return x if layer.pad == layer.pad_end else F.pad(x, (layer.pad, layer.pad_end, layer.pad, layer.pad_end))


def _unpadded(layer: Layer, of_padded: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    begin = 0 if layer.pad == layer.pad_end else layer.pad
    return of_padded[:, :, begin : begin + x.shape[2], begin : begin + x.shape[3]]
