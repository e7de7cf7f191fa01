"""How the figures look: narrow enough for a phone, at home on a light page and a dark one, in colours that all can tell apart."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, without those of its colours that fade on white or black.
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = "#1b7fc4", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#c79a00"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW)
TOWERS = (BLUE, ORANGE, GREEN, PURPLE)
RED = "#d5331c"

WIDTH = 380  # of a figure in points, which a page shows as pixels
_INK = "#010203"  # stands for the text's colour until the SVG file is written
_GREY = "#7a7a7a"  # as far from white as from black; bitmaps cannot follow the page
SCHEMES = "svg{color:#24292f}@media(prefers-color-scheme:dark){svg{color:#d7dde3}}"


@contextmanager
def drawing(path: Path, height: float, width: float = WIDTH) -> Iterator[Figure]:
    """An empty figure of `width` x `height` points, written to `path` at the end with nothing behind it.

    Lines and text go into an .svg file; what is made of pixels into .png, photographs into .webp.
    """
    vector = path.suffix == ".svg"
    ink = _INK if vector else _GREY
    look: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "grid.color": ink,
        "grid.alpha": 0.15,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "lines.linewidth": 1.4,
        "svg.fonttype": "none",
        "svg.hashsalt": "alexnet_dist",
        "image.interpolation": "nearest",
    }
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        yield figure
        if vector:
            figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
            path.write_text(_follow_page(path.read_text("utf-8")), "utf-8")
        else:
            packing = {"quality": 85} if path.suffix == ".webp" else {"optimize": True}
            figure.savefig(path, transparent=True, dpi=144, pil_kwargs=packing)


def horizontal_grid(axes: Axes) -> None:
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def ink_of(axes: Axes) -> str:
    """The colour of text and axes in this figure."""
    return str(axes.xaxis.label.get_color())


def _follow_page(svg: str) -> str:
    """Let text and axes take a colour that suits the page's, and fonts be the reader's own."""
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    head, _, rest = svg.partition(">")
    head = re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', head)
    rest = re.sub(r"font(-family)?: ([^;\"]*?)'[^;\"]*sans-serif[^;\"]*", r"font\1: \2system-ui, sans-serif", rest)
    return f"{head}><style>{SCHEMES}</style>{rest}"
