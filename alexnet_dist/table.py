"""Print a net's table, its parameters, arithmetic and bytes that cross: python -m alexnet_dist.model model=paper"""

from typing import Any

from rich.console import Console

from alexnet_dist import text
from alexnet_dist.launching.commands import command
from alexnet_dist.model.cost import HEADINGS, NUMBERS, described
from alexnet_dist.model.table import build_table

_WIDTH = 118  # of the table: a narrow terminal may fold its lines, but no figure is cut


def show(config: dict[str, Any]) -> None:
    """Print the table of the composed `model` group."""
    table = build_table(config["model"])
    title = f"{table.name}: {text.counted(table.towers, 'tower')}, {table.input_size} pixels"
    console = Console(width=max(Console().width, _WIDTH))
    console.print(text.table(title, HEADINGS, map(described, table.layers), NUMBERS))
    console.print(
        f"{table.parameters:,} parameters; {table.multiply_adds:,} multiply-adds an image forward, "
        f"{table.training_flops / 1e9:.2f} GFLOP an image in training; "
        f"{sum(layer.crossing_bytes for layer in table.layers):,} bytes an image sent by a tower to each other one forward, "
        "as many backward (fp32)",
        highlight=False,
    )


def main() -> None:
    command("train", show)


if __name__ == "__main__":
    main()
