"""From other programs' parameters to a table's and back: Caffe's layout and torchvision's."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import dropwhile, pairwise
from typing import Any

import torch

from alexnet_dist.errors import UserError
from alexnet_dist.formats.arrays import listed
from alexnet_dist.model.table import Table

MEAN = "mean"  # the mean image's name in a file of Caffe's layout

# What torchvision's weights expect of pixels in 0..1 (torchvision.transforms._presets.ImageClassification).
TORCHVISION_MEAN = (0.485, 0.456, 0.406)
TORCHVISION_STD = (0.229, 0.224, 0.225)

_COMMUTING = {"relu", "max_pool", "avg_pool", "identity", "dropout"}

Arrays = Mapping[str, torch.Tensor]


def to_caffe(parameters: Arrays, table: Table) -> dict[str, torch.Tensor]:
    """`<layer>.weight` and `<layer>.bias` of the whole net as Caffe holds them.

    A grouped convolution lies alike in both. Caffe reads BGR, so the first layer's input channels are reversed. Its dropout
    scales in training and not in testing, so that weights behind a dropout are (1 - p) times ours, without rounding where 1 - p
    is a power of two.

    Raises UserError: a full connection reads its own tower alone, for which Caffe has no layer, or as `testing_scales` does.
    """
    scales = testing_scales(table)
    first = table.layers[0].name
    for layer in table.layers:
        if layer.kind == "fc" and layer.reads == "own" and table.towers > 1:
            raise UserError(f"layer {layer.name} is fully connected to its own tower, which Caffe cannot: take another format")
    return {
        name: _reversed(array) if name == f"{first}.weight" else array * scales.get(name, 1.0)
        for name, array in parameters.items()
    }


def from_caffe(arrays: Arrays, table: Table, whole: bool = True) -> dict[str, torch.Tensor]:
    """The inverse of `to_caffe`. Raises UserError where arrays are missing, left over or of other shapes than the table's;
    if not `whole`, what there is of the table's layers comes back as it is."""
    scales = testing_scales(table)
    first, shapes = f"{table.layers[0].name}.weight", table.parameter_shapes()
    if whole:
        check_shapes({name: name for name in shapes}, arrays, table, extra=(MEAN,))
    found = {name: arrays[name] / scales.get(name, 1.0) for name in shapes if name in arrays}
    if first in arrays and list(arrays[first].shape) == shapes[first]:
        found[first] = _reversed(arrays[first])
    return found


def is_torchvision(arrays: Arrays) -> bool:
    """Whether parameters are named as torchvision names its AlexNet's."""
    return any(re.match(r"(features|classifier)\.\d+\.", name) for name in arrays)


def from_torchvision(arrays: Arrays, table: Table, whole: bool = True) -> dict[str, torch.Tensor]:
    """The parameters of a state dict of torchvision's AlexNet, or of one like it: the n-th convolution is that of `features`,
    the n-th full connection that of `classifier`.

    torchvision divides pixels of 0..1 by a standard deviation a channel, which goes into the first layer's weights, and scales
    in training where we scale in testing, which goes into the weights behind a dropout.

    Raises UserError: it has more or fewer layers than the table, or others; if not `whole`, these come back as they are.
    """
    names: dict[str, str] = {}
    for part, kind in (("features", "conv"), ("classifier", "fc")):
        found = sorted({int(match[1]) for name in arrays if (match := re.match(rf"{part}\.(\d+)\.(weight|bias)$", name))})
        layers = [layer.name for layer in table.layers if layer.kind == kind]
        if len(found) != len(layers):
            raise UserError(
                f"the weights have {len(found)} layers in {part} and model={table.name} has {len(layers)}: take model=torchvision"
            )
        for number, layer in zip(found, layers, strict=True):
            names |= {f"{layer}.{kind}": f"{part}.{number}.{kind}" for kind in ("weight", "bias")}
    hint = "take model=torchvision"
    if table.towers > 1:
        hint = f"torchvision's AlexNet is the net of one tower of 2014, which fits no table of several towers; {hint}"
    if whole:
        check_shapes(names, arrays, table, hint=hint)
    scales = testing_scales(table)
    first = f"{table.layers[0].name}.weight"
    if (weight := arrays.get(names[first])) is not None and list(weight.shape) == table.parameter_shapes()[first]:
        scales[first] = (255 * torch.tensor(TORCHVISION_STD))[:, None, None]
    return {name: arrays[theirs] / scales.get(name, 1.0) for name, theirs in names.items() if theirs in arrays}


def testing_scales(table: Table) -> dict[str, Any]:
    """The weights that read what dropouts have scaled, by name, and by how much: the product of their 1 - p.

    Raises UserError: something follows a dropout that a scaling does not pass through.
    """
    for layer in table.layers[:-1]:
        behind = dropwhile(lambda operation: not (operation.kind == "dropout" and operation.options["p"]), layer.then)
        if other := next((operation for operation in behind if operation.kind not in _COMMUTING), None):
            raise UserError(
                f"layer {layer.name} has {other.name} behind a dropout: such a net has no form in which dropout scales "
                "in training; put the dropout last"
            )
    return dict(kept_before(table))


def kept_before(table: Table) -> dict[str, float]:
    """What share of its inputs the dropout before a layer leaves, by the name of the layer's weight."""
    return {
        f"{following.name}.weight": math.prod(1 - each.options["p"] for each in layer.then if each.kind == "dropout")
        for layer, following in pairwise(table.layers)
    }


def check_shapes(
    names: Mapping[str, str],
    arrays: Arrays,
    table: Table,
    extra: Sequence[str] = (),
    hint: str = "take the model they were made for",
) -> None:
    """Raises UserError for the first of the table's parameters that has no array of its shape, and for arrays left over.

    `names` says what each parameter is called among the arrays.
    """
    for name, shape in table.parameter_shapes().items():
        theirs = names[name]
        if theirs not in arrays:
            raise UserError(
                f"the weights hold {listed(arrays)} and lack {theirs}, which model={table.name} needs for {name}: {hint}"
            )
        found = list(arrays[theirs].shape)
        if found != shape:
            other_classes = name == f"{table.layers[-1].name}.weight" and found[1:] == shape[1:]
            raise UserError(
                f"{theirs} is {found} in the weights and {name} is {shape} in model={table.name}: "
                + (f"set model.layers.{table.layers[-1].name}.filters={found[0]}" if other_classes else hint)
            )
    if left := sorted(set(arrays) - set(names.values()) - set(extra)):
        raise UserError(f"the weights hold {left[0]}, which model={table.name} does not have: {hint}")


def _reversed(weight: torch.Tensor) -> torch.Tensor:
    """RGB for BGR among the input channels, or the other way round; a full connection [filters, 3 * pixels] has them flat."""
    if weight.ndim == 2 and weight.shape[1] % 3 == 0:
        return weight.unflatten(1, (3, -1)).flip(1).flatten(1)
    return weight.flip(1)
