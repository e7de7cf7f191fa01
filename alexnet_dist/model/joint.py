"""A layer that reads all towers, taken apart so that messages travel while there is something to compute.

A tower's output is the product with its own maps, which are here, plus the product with the others', which come meanwhile.
Backward, the gradient that the others wait for is computed first and travels while the rest is computed. The sums are the same
where nothing travels, so that the bits do not depend on how many processes hold the net.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

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


def product_of_all(
    layer: Layer, towers: range, maps: Sequence[torch.Tensor], weight: torch.Tensor, bias: torch.Tensor, crossing: Crossing
) -> list[torch.Tensor]:
    """The convolution or full connection of `layer` for the held `towers`, of all towers' maps.

    `maps` are the held towers' [N, C, H, W] or [N, units], `weight` and `bias` the rows of the held towers. Returns
    [N, filters / towers, H', W'] or [N, filters / towers] for each. Under autocast the products are of its dtype.
    """
    if layer.kind == "fc":
        maps = [x.flatten(1) for x in maps]
    kind = maps[0].device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        weight, bias, maps = weight.to(dtype), bias.to(dtype), [x.to(dtype) for x in maps]
    with torch.autocast(kind, enabled=False):
        return list(_ProductOfAll.apply(layer, towers, crossing, weight, bias, *maps))


class _ProductOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer, towers, crossing, weight, bias, *maps):  # type: ignore[no-untyped-def]
        held = len(towers)
        arrival = crossing.begin([_join(maps)] * crossing.size)
        weights = [_own_and_others(rows, layer, tower) for rows, tower in zip(weight.chunk(held), towers, strict=True)]
        outputs = [product(layer, x, own, b) for x, (own, _), b in zip(maps, weights, bias.chunk(held), strict=True)]
        by_tower = [x for share in arrival.wait() for x in share.chunk(held, dim=1)]
        by_tower[towers.start : towers.stop] = maps
        others = [_join(by_tower[:tower] + by_tower[tower + 1 :]) for tower in towers]
        for output, x, (_, rest) in zip(outputs, others, weights, strict=True):
            _add_product(output, layer, x, rest)
        ctx.layer, ctx.towers, ctx.crossing = layer, towers, crossing
        ctx.save_for_backward(weight, *maps, *others)
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
            parts = _input_gradient(layer, gradient, x, rest).chunk(layer.towers - 1, dim=1)
            for other, part in zip([t for t in range(layer.towers) if t != tower], parts, strict=True):
                of_others[other] = of_others[other] + part if other in of_others else part
        outgoing = [
            maps[0] if share == crossing.index else _join([of_others[share * held + i] for i in range(held)])
            for share in range(crossing.size)
        ]
        arrival = crossing.begin(outgoing)

        of_maps = [_input_gradient(layer, g, x, own) for g, x, (own, _) in zip(gradients, maps, weights, strict=True)]
        of_weight = torch.empty_like(weight)
        for tower, gradient, x, y, rows in zip(towers, gradients, maps, others, of_weight.chunk(held), strict=True):
            _put_weight_gradient(rows, layer, tower, gradient, x, y)
        of_bias = torch.cat([gradient.sum((0, *range(2, gradient.dim()))) for gradient in gradients])
        for tower, total in zip(towers, of_maps, strict=True):
            if tower in of_others:
                total += of_others[tower]
        for share, received in enumerate(arrival.wait()):
            if share != crossing.index:
                for total, part in zip(of_maps, received.chunk(held, dim=1), strict=True):
                    total += part
        return None, None, None, of_weight, of_bias, *of_maps


def _join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _own_and_others(rows: torch.Tensor, layer: Layer, tower: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns of a tower's rows of the weight that read its own maps, and those that read the others'."""
    columns = rows.chunk(layer.towers, dim=1)
    if layer.towers == 2:
        return columns[tower], columns[1 - tower]
    return columns[tower], torch.cat(columns[:tower] + columns[tower + 1 :], dim=1)


def product(layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The convolution of maps [N, C, H, W], or the full connection of [N, C, H, W] or [N, units], without what follows it."""
    if layer.kind == "fc":
        return F.linear(x.flatten(1), weight, bias)
    return F.conv2d(_padded(layer, x), weight, bias, layer.stride, _pad(layer))


def _add_product(output: torch.Tensor, layer: Layer, x: torch.Tensor, weight: torch.Tensor) -> None:
    if layer.kind == "fc":
        output.addmm_(x, weight.t())
    else:
        output += product(layer, x, weight, None)


def _input_gradient(layer: Layer, gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if layer.kind == "fc":
        return gradient @ weight
    of_padded = _convolution_gradients(layer, gradient, _padded(layer, x), weight, 0)
    begin = 0 if layer.pad == layer.pad_end else layer.pad
    return of_padded[:, :, begin : begin + x.shape[2], begin : begin + x.shape[3]]


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
            column.copy_(_convolution_gradients(layer, gradient, _padded(layer, x), column, 1))


def _convolution_gradients(layer: Layer, gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, of: int) -> torch.Tensor:
    """The gradient of x (`of` 0) or of the weight (`of` 1)."""
    stride, pad = [layer.stride] * 2, [_pad(layer)] * 2
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, pad, [1, 1], False, [0, 0], 1, [of == 0, of == 1, False]
    )[of]


def _pad(layer: Layer) -> int:
    """The zeros that the convolution itself adds on every side; where the sides differ `_padded` has added them."""
    return layer.pad if layer.pad == layer.pad_end else 0


def _padded(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    return x if layer.pad == layer.pad_end else F.pad(x, (layer.pad, layer.pad_end, layer.pad, layer.pad_end))
