"""What a training step of a table's net costs: arithmetic, memory traffic, maps kept, bytes that cross. Nothing is measured here.

All figures are per image and for all towers together, counted in operations or values (not bytes) unless they say otherwise.
"""

from dataclasses import dataclass

from alexnet_dist.model.table import Layer, Table

# Values that an operation moves for each value of the map it reads (r) and of the map it makes (m), forward and backward: each
# map read or written once, as a fused kernel would. A norm keeps its window's sum and reads it back.
_TRAFFIC = {
    "relu": ((1, 1), (1, 2)),
    "tanh": ((1, 1), (1, 2)),
    "sigmoid": ((1, 1), (1, 2)),
    "identity": ((0, 0), (0, 0)),
    "response_norm": ((2, 1), (3, 1)),
    "spatial_norm": ((2, 1), (3, 1)),
    "max_pool": ((1, 2), (1, 2)),
    "avg_pool": ((1, 1), (1, 1)),
    "dropout": ((1, 2), (1, 2)),
}
# Values that an operation keeps for its backward pass beside the map it makes, for each value that it makes: the norms' sum and
# its power; where a maximum stood, as 64 bits.
_KEPT = {"response_norm": 2, "spatial_norm": 1, "max_pool": 2}
# These find their derivative from what they made; the others need what they read.
_FROM_OUTPUT = {"relu", "tanh", "sigmoid", "identity", "dropout"}


@dataclass(frozen=True)
class Cost:
    """A layer's share of a training step.

    `flops` are those of its product forward (2 for a multiply-add); the gradient of the weights takes as many, and so does that
    of what it reads, unless that is the image. `product` values are what the product moves beside its weights. `operations` are
    the values that the operations behind the product move, forward and backward. `kept` values wait for the backward pass, and
    `joined` values, the other towers' maps, wait for each tower.
    """

    layer: Layer
    flops: int
    product: int
    operations_forward: int
    operations_backward: int
    kept: int
    joined: int

    @property
    def input_gradient(self) -> bool:
        return self.layer.reads != "image"

    @property
    def training_flops(self) -> int:
        return self.flops * (3 if self.input_gradient else 2)


def costs(table: Table) -> list[Cost]:
    """A cost for each layer, in order."""
    return [_cost(layer) for layer in table.layers]


def _cost(layer: Layer) -> Cost:
    # A layer that reads all towers reads the same maps in each.
    read = layer.in_channels * layer.in_size**2 * (layer.towers if layer.reads in ("all", "image") else 1)
    made = layer.filters * layer.conv_size**2
    size, product = layer.conv_size, read + made
    forward = backward = kept = 0
    if not layer.then or layer.then[0].kind not in _FROM_OUTPUT:
        kept += made
    for operation in layer.then:
        before = layer.filters * size**2
        size = operation.out_size(size)
        after = layer.filters * size**2
        (read_once, made_once), (read_back, made_back) = _TRAFFIC[operation.kind]
        forward += read_once * before + made_once * after
        backward += read_back * before + made_back * after
        kept += (1 + _KEPT.get(operation.kind, 0)) * after
    return Cost(
        layer=layer,
        flops=2 * layer.multiply_adds,
        product=product,
        operations_forward=forward,
        operations_backward=backward,
        kept=kept,
        joined=layer.towers * (layer.towers - 1) * layer.crossing,
    )


# What `described` says of a layer, and which of it are numbers.
HEADINGS = ("layer", "reads", "weight", "out, per tower", "parameters", "multiply-adds", "bytes crossed", "then")
NUMBERS = HEADINGS[2:-1]


def described(layer: Layer) -> tuple[str, ...]:
    """What stands under HEADINGS for a layer. Multiply-adds and bytes are those of one image forward, the bytes fp32."""
    return (
        layer.name,
        layer.reads,
        "x".join(map(str, layer.weight_shape)),
        _shape(layer),
        f"{layer.parameters:,}",
        f"{layer.multiply_adds:,}",
        f"{layer.crossing_bytes:,}" if layer.reads == "all" or layer.edges else "",
        ", ".join(operation.name for operation in layer.then),
    )


def _shape(layer: Layer) -> str:
    maps = layer.filters // layer.towers
    if layer.kind == "fc":
        return str(maps)
    pooled = f" -> {layer.out_size}x{layer.out_size}" if layer.out_size != layer.conv_size else ""
    return f"{maps} x {layer.conv_size}x{layer.conv_size}{pooled}"
