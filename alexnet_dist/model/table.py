"""The net as a table: from the rows of conf/model/*.yaml to shapes, parameters, multiply-adds and bytes that cross."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FLOAT32_BYTES = 4

# What an operation of each kind must say, and what it may leave out with the value taken then.
_OPERATION_OPTIONS: dict[str, dict[str, float | None]] = {
    "relu": {},
    "tanh": {},
    "sigmoid": {},
    "identity": {},
    "response_norm": {"size": None, "alpha": None, "beta": None, "k": None},
    "spatial_norm": {"size": None, "alpha": None, "beta": None, "k": None},
    "max_pool": {"kernel": None, "stride": None, "pad": 0},
    "avg_pool": {"kernel": None, "stride": None, "pad": 0},
    "dropout": {"p": None},
}
_WHOLE_NUMBERS = {"size", "kernel", "stride", "pad"}
_LAYER_KEYS = {
    "conv": {"kind", "reads", "filters", "kernel", "stride", "pad", "pad_end", "then", "weight_std", "bias"},
    "fc": {"kind", "reads", "filters", "then", "weight_std", "bias"},
}
_TABLE_KEYS = {"name", "towers", "input", "operations", "layers"}


class TableError(ValueError):
    """A table that cannot be; the message names the layer, the operation or the key."""


@dataclass(frozen=True)
class Operation:
    """What follows a layer's convolution or product: an activation, a norm, a pooling, a dropout.

    `reads` is `own`, or `all` for a response norm whose windows reach into the neighbouring towers.
    """

    name: str
    kind: str
    options: Mapping[str, float]
    reads: str = "own"

    @property
    def reach(self) -> int:
        """How many of a neighbouring tower's maps a window reaches."""
        return int(self.options["size"]) // 2 if self.reads == "all" else 0


@dataclass(frozen=True)
class Layer:
    """One row of the table, with the shapes that follow from the rows above it.

    Filters and channels count all towers together; sizes are pixels of a square map (1 for fully connected layers).
    """

    name: str
    kind: str  # conv | fc
    reads: str  # image | own | all
    filters: int
    kernel: int
    stride: int
    pad: int
    pad_end: int  # zeros beyond the right and bottom edge, where it differs from `pad` on the left and top
    then: tuple[Operation, ...]
    weight_std: float
    bias: float
    in_channels: int
    in_size: int
    conv_size: int  # before the operations
    out_size: int  # after them
    edge_bytes: int  # of the maps that cross within the layer, for norms that read all towers; fp32, per image and direction
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
    def crossing_bytes(self) -> int:
        """Bytes of fp32 that one tower sends to each other tower before and within this layer, per image and direction."""
        crosses = self.reads == "all" and self.towers > 1
        before = self.in_channels // self.towers * self.in_size**2 * FLOAT32_BYTES if crosses else 0
        return before + self.edge_bytes


@dataclass(frozen=True)
class Table:
    """A net: its layers in order, for `towers` towers, over square RGB images of `input_size` pixels."""

    name: str
    towers: int
    input_size: int
    layers: tuple[Layer, ...] = field(default=())

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

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole net's parameters by name, as they stand in a checkpoint."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.layers:
            shapes[f"{layer.name}.weight"] = layer.weight_shape
            shapes[f"{layer.name}.bias"] = (layer.filters,)
        return shapes


def build_table(config: Mapping[str, Any]) -> Table:
    """The table of a composed `model` group.

    Raises:
        TableError: an unknown or missing key, a value of the wrong kind, a filter count that the towers do not divide, a
            map that shrinks below one pixel.
    """
    _refuse_unknown("the model", config, _TABLE_KEYS)
    towers = _integer("the model", config, "towers", least=1)
    input_size = _integer("the model", config, "input", least=1)
    operations = {name: _build_operation(name, options) for name, options in _mapping("the model", config, "operations").items()}
    rows = _mapping("the model", config, "layers")
    if not rows:
        raise TableError("the model has no layers")
    layers: list[Layer] = []
    channels, size = 3, input_size
    for name, row in rows.items():
        layer = _build_layer(name, row, operations, towers, channels, size, previous=layers[-1] if layers else None)
        layers.append(layer)
        channels, size = layer.filters, layer.out_size
    if layers[-1].kind != "fc" or any(operation.kind != "identity" for operation in layers[-1].then):
        raise TableError(f"layer {layers[-1].name} is the last: it must be a fully connected layer with nothing after it")
    return Table(str(config.get("name", "unnamed")), towers, input_size, tuple(layers))


def _build_operation(name: str, row: Any) -> Operation:
    where = f"operation {name}"
    if not isinstance(row, Mapping):
        raise TableError(f"{where} must be a set of keys with its kind, not {row!r}")
    kind = row.get("kind")
    if kind not in _OPERATION_OPTIONS:
        raise TableError(f"{where} has kind {kind!r}; known are {', '.join(_OPERATION_OPTIONS)}")
    allowed = _OPERATION_OPTIONS[kind]
    # An override that only changes the kind (lrn -> identity, relu -> tanh) leaves the old kind's options behind: the
    # options of other kinds are therefore passed over, and only keys that no kind knows are refused.
    _refuse_unknown(where, row, {"kind", "reads"}.union(*_OPERATION_OPTIONS.values()))
    options: dict[str, float] = {}
    for key, default in allowed.items():
        value = row.get(key, default)
        whole = key in _WHOLE_NUMBERS
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise TableError(f"{where} needs {key} as a {'whole ' if whole else ''}number, not {value!r}")
        options[key] = value
    if any(options.get(key, 1) < 1 for key in ("size", "kernel", "stride")) or options.get("pad", 0) < 0:
        raise TableError(f"{where} needs a size, kernel and stride of at least 1 and a pad of at least 0")
    if kind.endswith("_norm") and options["size"] % 2 == 0:
        raise TableError(f"{where} has size {options['size']}; a window around a map or pixel has an odd size")
    if kind.endswith("_pool") and 2 * options["pad"] > options["kernel"]:
        raise TableError(f"{where} has pad {options['pad']}, more than half its kernel {options['kernel']}")
    if kind == "dropout" and not 0 <= options["p"] < 1:
        raise TableError(f"{where} has p {options['p']}; it must be at least 0 and below 1")
    reads = str(row.get("reads", "own"))
    if reads not in ("own", "all"):
        raise TableError(f"{where} has reads {reads}; it must be own or all")
    return Operation(name, kind, options, reads if kind == "response_norm" and options["size"] > 1 else "own")


def _build_layer(
    name: str,
    row: Any,
    operations: Mapping[str, Operation],
    towers: int,
    channels: int,
    size: int,
    previous: Layer | None,
) -> Layer:
    where = f"layer {name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise TableError(f"{where}: a layer's name is made of small letters, digits and _, beginning with a letter")
    if not isinstance(row, Mapping):
        raise TableError(f"{where} must be a set of keys, not {row!r}")
    kind = row.get("kind")
    if kind not in _LAYER_KEYS:
        raise TableError(f"{where} has kind {kind!r}; known are conv, fc")
    _refuse_unknown(where, row, _LAYER_KEYS[kind])
    if kind == "conv" and previous is not None and previous.kind == "fc":
        raise TableError(f"{where} is a convolution after the fully connected layer {previous.name}")
    reads = str(row.get("reads"))
    readable = ("image",) if previous is None else ("own", "all")
    if reads not in readable:
        raise TableError(f"{where} has reads {reads}; here it must be {' or '.join(readable)}")
    filters = _integer(where, row, "filters", least=1)
    if filters % towers:
        raise TableError(f"{where} has {filters} filters, which {towers} towers do not divide")
    kernel = stride = 1
    pad = pad_end = 0
    conv_size = 1
    if kind == "conv":
        kernel = _integer(where, row, "kernel", least=1)
        stride = _integer(where, row, "stride", least=1, default=1)
        pad = _integer(where, row, "pad", least=0, default=0)
        pad_end = _integer(where, row, "pad_end", least=0, default=pad)
        conv_size = (size + pad + pad_end - kernel) // stride + 1
        if conv_size < 1:
            raise TableError(f"{where} has kernel {kernel} on maps of {size} pixels: nothing is left")
    out_size, edge_bytes = conv_size, 0
    then: list[Operation] = []
    names = row.get("then", [])
    if isinstance(names, str) or not isinstance(names, (list, tuple)):
        raise TableError(f"{where} needs then as a list of operations, not {names!r}")
    for operation_name in names:
        if operation_name not in operations:
            raise TableError(f"{where} is followed by {operation_name!r}; the operations are {', '.join(operations)}")
        operation = operations[operation_name]
        if kind == "fc" and operation.kind.endswith(("_pool", "_norm")):
            raise TableError(f"{where} is fully connected and cannot be followed by {operation_name}")
        if operation.kind.endswith("_pool"):
            options = operation.options
            out_size = int((out_size + 2 * options["pad"] - options["kernel"]) // options["stride"]) + 1
            if out_size < 1:
                raise TableError(f"{where} shrinks below one pixel in {operation_name}")
        if operation.reach > filters // towers:
            raise TableError(f"{where} has {filters // towers} maps a tower, fewer than {operation_name} reaches into the next")
        if towers > 1:
            edge_bytes += 2 * operation.reach * out_size**2 * FLOAT32_BYTES
        then.append(operation)
    return Layer(
        name=name,
        kind=kind,
        reads=reads,
        filters=filters,
        kernel=kernel,
        stride=stride,
        pad=pad,
        pad_end=pad_end,
        then=tuple(then),
        weight_std=_number(where, row, "weight_std", least=0),
        bias=_number(where, row, "bias"),
        in_channels=channels,
        in_size=size,
        conv_size=conv_size,
        out_size=out_size,
        edge_bytes=edge_bytes,
        towers=towers,
    )


def _refuse_unknown(where: str, row: Mapping[str, Any], known: set[str]) -> None:
    for key in row:
        if key not in known:
            raise TableError(f"{where} has the unknown key {key!r}; known are {', '.join(sorted(known))}")


def _mapping(where: str, row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = row.get(key)
    if not isinstance(value, Mapping):
        raise TableError(f"{where} needs {key} as a set of keys, not {value!r}")
    return value


def _integer(where: str, row: Mapping[str, Any], key: str, least: int, default: int | None = None) -> int:
    value = row.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TableError(f"{where} needs {key} as a whole number of at least {least}, not {value!r}")
    return value


def _number(where: str, row: Mapping[str, Any], key: str, least: float | None = None) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least:g}"
        raise TableError(f"{where} needs {key} as a number{bound}, not {value!r}")
    return float(value)
