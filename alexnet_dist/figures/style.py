"""How the figures look: narrow enough for a phone, at home on a light page and a dark one, in colours that all can tell apart."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names

from alexnet_dist.figures.page import write_whole

# Okabe and Ito's palette, without those of its colours that fade on white or black.
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = "#1b7fc4", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#c79a00"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW)
RED = "#d5331c"

WIDTH = 380  # of a figure in points, which a page shows as pixels
_LOOK = Path(__file__).with_name("report.mplstyle")
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color", "grid.color")
_INK = "#010203"  # stands for the text's colour until the SVG file is written
_GREY = "#7a7a7a"  # as far from white as from black; bitmaps cannot follow the page
# For labels in Chinese, Japanese and Korean, which matplotlib's own font lacks; those that the machine has.
_CJK = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Unifont")
SCHEMES = "svg{color:#24292f}@media(prefers-color-scheme:dark){svg{color:#d7dde3}}"


@contextmanager
def drawing(path: Path, height: float, width: float = WIDTH, of: str = "") -> Iterator[Figure]:
    """An empty figure of `width` x `height` points, written to `path` at the end with nothing behind it.

    Lines and text go into an .svg file; what is made of pixels into .png, photographs into .webp. A .png says what it is `of`.

    Raises UnwritableError where it cannot be written.
    """
    vector = path.suffix == ".svg"
    look: dict[Any, Any] = dict.fromkeys(_INKED, _INK if vector else _GREY)
    look["font.family"] = ["DejaVu Sans", *(name for name in _CJK if name in get_font_names()), "sans-serif"]
    with matplotlib.rc_context(look, _LOOK), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a page draws the text with the reader's own fonts
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        yield figure
        drawn = io.BytesIO()
        if vector:
            figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            write_whole(path, _follow_page(drawn.getvalue().decode()).encode())
        else:
            png = {"pil_kwargs": {"optimize": True}, "metadata": {"Source": of}}
            told: dict[str, Any] = png if path.suffix == ".png" else {"pil_kwargs": {"quality": 85}}
            figure.savefig(drawn, format=path.suffix[1:], transparent=True, dpi=144, **told)
            write_whole(path, drawn.getvalue())


def short(name: str) -> str:
    """The first of a class's words, cut to what fits beside a picture."""
    first = name.split(",")[0]
    return first if len(first) <= 22 else first[:21] + "…"


def _follow_page(svg: str) -> str:
    """Let text and axes take a colour that suits the page's, and fonts be the reader's own."""
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    head, _, rest = svg.partition(">")
    head = re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', head)
    rest = re.sub(r"font(-family)?: ([^;\"]*?)'[^;\"]*sans-serif[^;\"]*", r"font\1: \2system-ui, sans-serif", rest)
    return f"{head}><style>{SCHEMES}</style>{rest}"
