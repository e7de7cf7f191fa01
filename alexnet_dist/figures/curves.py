"""Learning curves: loss and error against epochs, of one run or of several beside one another."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.figures.style import BLUE, GREEN, ORANGE, PALETTE, drawing, horizontal_grid, ink_of

_MOST_POINTS = 240
_DASHES = ("-", "--", "-.", ":")


def draw_curves(run: RunFiles, path: Path) -> bool:
    """Training loss, validation loss and errors of a run, with a mark where the learning rate changes; the training error
    where the records have it.

    False, and no file, where the run has no records yet.
    """
    train, val = run.of_kind("train"), run.of_kind("val")
    if not train:
        return False
    with drawing(path, 380) as figure:
        above, below = figure.subplots(2, sharex=True)
        above.plot(*_thinned(train, "loss"), color=BLUE, label="training, one batch" if val else "training")
        if "top1_error" in train[0]:
            below.plot(*_thinned(train, "top1_error"), color=BLUE, label="training")
        through = [record for record in val if record["views"] == 1]
        closing = next((record for record in reversed(val) if record["views"] != 1), None)
        if through:
            above.plot(*_series(through, "loss"), color=ORANGE, linestyle="--", marker=".", label="validation")
            below.plot(*_series(through, "top1_error"), color=ORANGE, linestyle="--", marker=".", label="top-1")
            below.plot(*_series(through, "top5_error"), color=GREEN, linestyle="-.", marker=".", label="top-5")
        if closing:
            label = f"{closing['views']} views"
            below.plot(closing["epoch"], closing["top1_error"], "D", color=ORANGE, label=label, clip_on=False)
            below.plot(closing["epoch"], closing["top5_error"], "D", color=GREEN, clip_on=False)
        _finish(above, "Loss")
        _finish(below, "Error")
        below.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        below.set_xlabel("epoch")
        _mark_rates(above, below, train)
    return True


def draw_comparison(runs: Sequence[tuple[str, RunFiles]], path: Path) -> bool:
    """Training loss and top-1 validation error of several runs, by name; False where none has records."""
    drawn = [(name, run) for name, run in runs if run.of_kind("train")]
    if not drawn:
        return False
    with drawing(path, 400 + 12 * len(drawn)) as figure:
        above, below = figure.subplots(2, sharex=True)
        for place, (name, run) in enumerate(drawn):
            look: dict[str, Any] = {
                "color": PALETTE[place % len(PALETTE)],
                "linestyle": _DASHES[place // len(PALETTE) % len(_DASHES)],
            }
            above.plot(*_thinned(run.of_kind("train"), "loss"), **look)
            through = [record for record in run.of_kind("val") if record["views"] == 1]
            below.plot(*_series(through, "top1_error"), marker=".", label=name, **look)
        for axes, title in ((above, "Training loss, one batch"), (below, "Validation error, top-1")):
            axes.set_title(title)
            _from_zero(axes)
        below.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        below.set_xlabel("epoch")
        figure.legend(loc="outside lower left", ncols=1)
    return True


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    _from_zero(axes)
    if axes.get_legend_handles_labels()[0]:
        handles = axes.get_legend_handles_labels()[0]
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 0.98), ncols=len(handles), fontsize=8, columnspacing=1, handlelength=1.7
        )


def _from_zero(axes: Axes) -> None:
    highest = axes.dataLim.y1  # minus infinity where nothing is drawn
    axes.set_ylim(0, 1.05 * highest if 0 < highest < math.inf else 1)
    horizontal_grid(axes)


def _mark_rates(above: Axes, below: Axes, train: Sequence[dict[str, Any]]) -> None:
    """A dotted line where the learning rate changes, with the new rate at its head."""
    for before, after in pairwise(train):
        if after["lr"] != before["lr"]:
            for axes in (above, below):
                axes.axvline(before["epoch"], color=ink_of(axes), linestyle=":", linewidth=0.8, alpha=0.7)
            label = f" rate {after['lr']:g}"
            above.text(before["epoch"], 0.98, label, transform=above.get_xaxis_transform(), fontsize=7.5, rotation=90, va="top")


def _series(records: Sequence[dict[str, Any]], figure: str) -> tuple[list[float], list[float]]:
    known = [record for record in records if record[figure] is not None]
    return [record["epoch"] for record in known], [record[figure] for record in known]


def _thinned(records: Sequence[dict[str, Any]], figure: str) -> tuple[np.ndarray, np.ndarray]:
    """A figure against the epoch; of more than _MOST_POINTS records the means of as many stretches."""
    epochs, values = (np.array(side) for side in _series(records, figure))
    stretches = min(len(epochs), _MOST_POINTS)
    means = [(np.mean(x), np.mean(y)) for x, y in zip(*(np.array_split(a, stretches) for a in (epochs, values)), strict=True)]
    return np.array([x for x, _ in means]), np.array([y for _, y in means])
