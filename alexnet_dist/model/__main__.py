"""Print a model's table: python -m alexnet_dist.model model=paper"""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from alexnet_dist.commands import command
from alexnet_dist.errors import UserError
from alexnet_dist.model.table import Layer, Table, TableError, build_table

_WIDTH = 118  # of the table: a narrow terminal may fold its lines, but no figure is cut


def show(config: dict[str, Any]) -> None:
    """Print the table of the composed `model` group."""
    try:
        table = build_table(config["model"])
    except TableError as error:
        raise UserError(f"model: {error}") from None
    console = Console(width=max(Console().width, _WIDTH))
    console.print(_layers(table))
    console.print(
        f"{table.parameters:,} parameters; {table.multiply_adds:,} multiply-adds an image forward, "
        f"{table.training_flops / 1e9:.2f} GFLOP an image in training; "
        f"{sum(layer.crossing_bytes for layer in table.layers):,} bytes an image sent by a tower to each other one forward, "
        "as many backward (fp32)",
        highlight=False,
    )


def _layers(table: Table) -> RichTable:
    shown = RichTable(title=f"{table.name}: {table.towers} towers, {table.input_size} pixels", box=box.SIMPLE)
    shown.add_column("layer")
    shown.add_column("reads")
    for heading in ("weight", "out, per tower", "parameters", "multiply-adds", "bytes crossed"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("then")
    for layer in table.layers:
        shown.add_row(
            layer.name,
            layer.reads,
            "x".join(map(str, layer.weight_shape)),
            _shape(layer, table.towers),
            f"{layer.parameters:,}",
            f"{layer.multiply_adds:,}",
            f"{layer.crossing_bytes:,}" if layer.reads == "all" or layer.edge_bytes else "",
            ", ".join(operation.name for operation in layer.then),
        )
    return shown


def _shape(layer: Layer, towers: int) -> str:
    maps = layer.filters // towers
    if layer.kind == "fc":
        return str(maps)
    pooled = f" -> {layer.out_size}x{layer.out_size}" if layer.out_size != layer.conv_size else ""
    return f"{maps} x {layer.conv_size}x{layer.conv_size}{pooled}"


def main() -> None:
    command("train", show)


if __name__ == "__main__":
    main()
