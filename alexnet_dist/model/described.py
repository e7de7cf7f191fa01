"""A layer of a table in words, for those who print or draw the table."""

from alexnet_dist.model.table import Layer

HEADINGS = ("layer", "reads", "weight", "out, per tower", "parameters", "multiply-adds", "bytes crossed", "then")


def described(layer: Layer) -> tuple[str, ...]:
    """What stands under HEADINGS for a layer. Multiply-adds and bytes are those of one image forward, the bytes fp32."""
    return (
        layer.name,
        layer.reads,
        "x".join(map(str, layer.weight_shape)),
        _shape(layer),
        f"{layer.parameters:,}",
        f"{layer.multiply_adds:,}",
        f"{layer.crossing_bytes:,}" if layer.reads == "all" or layer.edge_bytes else "",
        ", ".join(operation.name for operation in layer.then),
    )


def _shape(layer: Layer) -> str:
    maps = layer.filters // layer.towers
    if layer.kind == "fc":
        return str(maps)
    pooled = f" -> {layer.out_size}x{layer.out_size}" if layer.out_size != layer.conv_size else ""
    return f"{maps} x {layer.conv_size}x{layer.conv_size}{pooled}"
