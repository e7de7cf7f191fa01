"""The net as a table: from the rows of conf/model/*.yaml to shapes, parameters, multiply-adds and bytes that cross."""

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from alexnet_dist.errors import UserError
from alexnet_dist.model.rows import Convolution, FullyConnected, Model, Norm, OperationRow, Pool, read_rows

# What a layer cannot be called, for it becomes an attribute of its net: torch's Module and Net have attributes called so (torch
# is not asked, it takes long to import), or the module that `export` writes has, or wrappers of nets have (formats/arrays.py), or
# Python has a word for it.
_TAKEN = frozenset(
    """
    add_module apply bfloat16 buffers call_super_init children compile cpu crossing cuda double dump_patches eval extra_repr float
    forward get_buffer get_extra_state get_parameter get_submodule half image_dtype initialise ipu keep_copies layers
    load_state_dict modules mtia named_buffers named_children named_modules named_parameters native parameters
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule
    share share_memory state_dict table to to_empty towers_held train training type xpu zero_grad
    classes mean mean_image
    model module
    """.split()  # noqa: SIM905 - as a list it would be sixty lines
).union(keyword.kwlist)


@dataclass(frozen=True)
class Operation:
    """What follows a layer's convolution or product: an activation, a norm, a pooling, a dropout.

    `reads` is `own`, or `all` for a response norm whose windows reach into the neighbouring towers. With the option `ceil` a
    pooling has one window more where the map does not end with a window (`round: up`); what lies outside the map counts for
    nothing.
    """

    name: str
    kind: str
    options: Mapping[str, Any]
    reads: str = "own"

    @property
    def reach(self) -> int:
        """How many of a neighbouring tower's maps a window reaches."""
        return int(self.options["size"]) // 2 if self.reads == "all" else 0

    def out_size(self, size: int) -> int:
        """Pixels of the square map that it makes of one of `size` pixels."""
        if not self.kind.endswith("_pool"):
            return size
        kernel, stride, pad = (int(self.options[key]) for key in ("kernel", "stride", "pad"))
        if not self.options.get("ceil"):
            return (size + 2 * pad - kernel) // stride + 1
        windows = -((kernel - size - 2 * pad) // stride) + 1
        return windows - ((windows - 1) * stride >= size + pad)  # the last one begins within the map


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One row of the table, with the shapes that follow from the rows above it.

    Filters and channels count all towers together; sizes are pixels of a square map (1 for fully connected layers).
    """

    name: str
    kind: str  # conv | fc
    reads: str  # image | own | all
    filters: int
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    pad_end: int = 0  # zeros beyond the right and bottom edge, where it differs from `pad` on the left and top
    then: tuple[Operation, ...]
    weight_std: float
    bias: float
    in_channels: int
    in_size: int
    conv_size: int  # before the operations
    out_size: int  # after them
    edges: int  # values that cross within the layer, for norms that read all towers; as `crossing`
    towers: int

    @property
    def fan_in(self) -> int:
        """Inputs to one output unit: dimension 1 and beyond of the weight, multiplied."""
        values = self.in_channels * (self.in_size**2 if self.kind == "fc" else self.kernel**2)
        return values // (self.towers if self.reads == "own" else 1)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the whole weight: [filters, inputs, kernel, kernel] or [filters, inputs]."""
        if self.kind == "fc":
            return (self.filters, self.fan_in)
        return (self.filters, self.fan_in // self.kernel**2, self.kernel, self.kernel)

    @property
    def parameters(self) -> int:
        return self.filters * (self.fan_in + 1)

    @property
    def multiply_adds(self) -> int:
        """Of the forward pass, per image, all towers together."""
        return self.filters * self.fan_in * self.conv_size**2

    @property
    def crossing(self) -> int:
        """Values that one tower sends to each other tower before this layer, per image and direction."""
        return self.in_channels // self.towers * self.in_size**2 if self.reads == "all" and self.towers > 1 else 0

    @property
    def crossing_bytes(self) -> int:
        """Of what crosses before and within this layer, in fp32."""
        return 4 * (self.crossing + self.edges)


@dataclass(frozen=True)
class Table:
    """A net: its layers in order, for `towers` towers, over square RGB images of `input_size` pixels."""

    name: str
    towers: int
    input_size: int
    layers: tuple[Layer, ...]

    @property
    def classes(self) -> int:
        return self.layers[-1].filters

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def training_flops(self) -> int:
        """Per image: two per multiply-add, forward and twice backward; the first layer needs no input gradient."""
        return 2 * (3 * self.multiply_adds - self.layers[0].multiply_adds)

    def parameter_shapes(self) -> dict[str, list[int]]:
        """The whole net's parameters by name, as they stand in a checkpoint."""
        shapes = {}
        for layer in self.layers:
            shapes[f"{layer.name}.weight"] = list(layer.weight_shape)
            shapes[f"{layer.name}.bias"] = [layer.filters]
        return shapes


def build_table(config: Mapping[str, Any]) -> Table:
    """The table of a composed `model` group.

    Raises:
        UserError: an unknown or missing key, a value of the wrong kind, a name that a layer cannot have, a filter count that the
            towers do not divide, a map that shrinks below one pixel.
    """
    model = read_rows(config)
    operations = {name: _build_operation(name, row) for name, row in model.operations.items()}
    layers: list[Layer] = []
    for name, row in model.layers.items():
        layers.append(_build_layer(name, row, operations, model, layers[-1] if layers else None))
    if layers[-1].kind != "fc" or any(operation.kind != "identity" for operation in layers[-1].then):
        raise UserError(f"model: layer {layers[-1].name} is the last: it must be a fully connected layer with nothing after it")
    return Table(model.name, model.towers, model.input, tuple(layers))


def _build_operation(name: str, row: OperationRow) -> Operation:
    across = isinstance(row, Norm) and row.reads == "all" and row.kind == "response_norm" and row.size > 1
    options = row.model_dump(exclude={"kind", "reads", "round"})
    if isinstance(row, Pool):
        options["ceil"] = row.round == "up"
    return Operation(name, row.kind, options, "all" if across else "own")


def _build_layer(
    name: str, row: Convolution | FullyConnected, operations: Mapping[str, Operation], model: Model, previous: Layer | None
) -> Layer:
    where, maps = f"model: layer {name}", row.filters // model.towers
    channels, in_size = (previous.filters, previous.out_size) if previous else (3, model.input)
    readable = ("own", "all") if previous else ("image",)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{where}: a layer's name is made of small letters, digits and _, beginning with a letter")
    if name in _TAKEN:
        raise UserError(f"{where}: a net has something else of this name already: call the layer {name}1")
    if row.reads not in readable:
        raise UserError(f"{where} has reads {row.reads!r}: here it must be {' or '.join(readable)}")
    if row.filters % model.towers:
        raise UserError(f"{where} has {row.filters} filters, which {model.towers} towers do not divide")
    said = row.model_dump(exclude={"then"})
    size = 1
    if isinstance(row, Convolution):
        if previous and previous.kind == "fc":
            raise UserError(f"{where} is a convolution after the fully connected layer {previous.name}")
        said["pad_end"] = row.pad if row.pad_end is None else row.pad_end
        size = (in_size + row.pad + said["pad_end"] - row.kernel) // row.stride + 1
        if size < 1:
            raise UserError(f"{where} has kernel {row.kernel} on maps of {in_size} pixels: nothing is left")
    conv_size, edges = size, 0
    then: list[Operation] = []
    for operation_name in row.then:
        if operation_name not in operations:
            raise UserError(f"{where} is followed by {operation_name!r}: the operations are {', '.join(operations)}")
        operation = operations[operation_name]
        if row.kind == "fc" and operation.kind.endswith(("_pool", "_norm")):
            raise UserError(f"{where} is fully connected and cannot be followed by {operation_name}")
        if (size := operation.out_size(size)) < 1:
            raise UserError(f"{where} shrinks below one pixel in {operation_name}")
        if operation.reach > maps:
            raise UserError(f"{where} has {maps} maps a tower, fewer than {operation_name} reaches into the next")
        if model.towers > 1:
            edges += 2 * operation.reach * size**2
        then.append(operation)
    layer = Layer(
        **said,
        name=name,
        then=tuple(then),
        in_channels=channels,
        in_size=in_size,
        conv_size=conv_size,
        out_size=size,
        edges=edges,
        towers=model.towers,
    )
    # For ReLUs, He et al. 2015 (arXiv 1502.01852), equation 10.
    return replace(layer, weight_std=sqrt(2 / layer.fan_in)) if row.weight_std == "he" else layer
