"""What is drawn of a run's records: loss and error against epochs, the time of a step, and activity by layer and step."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.figures.style import BLUE, GREEN, ORANGE, PALETTE, drawing
from alexnet_dist.text import printable

_MOST_POINTS = 240
_MOST_BARS = 60
_DASHES = ("-", "--", "-.", ":")
_ACTIVITY = (
    ("activation", "Activations, root mean square", True),
    ("gradient", "Gradient that comes back, root mean square", True),
    ("saturated", "Saturated units", False),
    ("dead", "Dead units", False),
)


def draw_curves(run: RunFiles, path: Path) -> bool:
    """Training loss, validation loss and errors of a run, and its learning rate; the training error where the records have it.

    False, and no file, where the run has no records yet.
    """
    train, val = run.of_kind("train"), run.of_kind("val")
    if not train:
        return False
    with drawing(path, 440) as figure:
        above, below, rates = figure.subplots(3, sharex=True, height_ratios=[1, 1, 0.35])
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
        for axes, title in ((above, "Loss"), (below, "Error")):
            axes.set_title(title)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            fit(axes)
            columns = len(axes.get_legend_handles_labels()[0])
            if columns:
                place = {"loc": "lower right", "bbox_to_anchor": (1, 0.98)}
                axes.legend(**place, ncols=columns, fontsize=8, columnspacing=1, handlelength=1.7)
        below.yaxis.set_major_formatter(PercentFormatter(1))
        _draw_rates(rates, *rates_by_epoch(run.records))
        rates.set_xlim(left=0)
        rates.set_xlabel("epoch")
    return True


def rates_by_epoch(records: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Epochs, and the learning rate up to each since the one before; a validation's is that of the steps before it."""
    epochs: list[float] = []
    rates: list[float] = []
    for record in records:
        if "lr" in record or rates:
            epochs.append(record["epoch"])
            rates.append(record.get("lr", rates[-1] if rates else 0.0))
    return epochs, rates


def draw_comparison(runs: Sequence[tuple[str, RunFiles]], path: Path) -> bool:
    """Training loss and top-1 validation error of several runs, by name; False where none has records."""
    drawn = [(name, run) for name, run in runs if run.of_kind("train")]
    if not drawn:
        return False
    with drawing(path, 400 + 12 * len(drawn)) as figure:
        above, below = figure.subplots(2, sharex=True)
        lines = []
        for place, (_, run) in enumerate(drawn):
            look: dict[str, Any] = {
                "color": PALETTE[place % len(PALETTE)],
                "linestyle": _DASHES[place // len(PALETTE) % len(_DASHES)],
            }
            above.plot(*_thinned(run.of_kind("train"), "loss"), **look)
            through = [record for record in run.of_kind("val") if record["views"] == 1]
            lines += below.plot(*_series(through, "top1_error"), marker=".", **look)
        for axes, title in ((above, "Training loss, one batch"), (below, "Validation error, top-1")):
            axes.set_title(title)
            fit(axes)
        below.yaxis.set_major_formatter(PercentFormatter(1))
        below.set_xlabel("epoch")
        # By hand: a label that begins with _ would be left out.
        figure.legend(lines, [printable(name) for name, _ in drawn], loc="outside lower left", ncols=1)
    return True


def draw_step_time(run: RunFiles, path: Path) -> bool:
    """Milliseconds a step over the run's steps, those that stood waiting for crossings on top, and images a second below.

    False, and no file, where the run has no records yet.
    """
    train = run.of_kind("train")
    if not train:
        return False
    columns = ("step", "step_seconds", "crossing_exposed_seconds", "images_per_second")
    figures = np.array([[record[name] for name in columns] for record in train], dtype=float)
    stretches = np.array_split(figures, min(len(figures), _MOST_BARS))
    steps, seconds, exposed, rate = np.array([stretch.mean(axis=0) for stretch in stretches]).T
    with drawing(path, 320) as figure:
        above, below = figure.subplots(2, sharex=True, height_ratios=[1.6, 1])
        parts = {"computing": 1000 * (seconds - exposed), "waiting for crossings": 1000 * exposed}
        above.stackplot(steps, *parts.values(), colors=[BLUE, ORANGE], alpha=0.85, labels=list(parts))
        above.set_title("A step, ms")
        above.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, fontsize=8)
        below.plot(steps, rate, color=BLUE)
        below.set_title("Images a second")
        below.set_xlabel("step")
        for axes in (above, below):
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="y")
    return True


def draw_layers(layers: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Milliseconds of a step in each layer, forward and backward, as `bench step` measured them."""
    names = list(layers)
    places = np.arange(len(names))
    with drawing(path, 60 + 26 * len(names)) as figure:
        axes = figure.subplots()
        forward, backward = ([1000 * layers[name][way] for name in names] for way in ("forward", "backward"))
        axes.barh(places, forward, color=BLUE, label="forward")
        axes.barh(places, backward, left=forward, color=ORANGE, label="backward")
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_title("A step by layer, ms, crossings included")
        axes.grid(axis="x")
        axes.legend(loc="best", fontsize=8)


def draw_activity(run: RunFiles, path: Path) -> bool:
    """A panel for each figure: layers and towers from top to bottom, steps from left to right, the colour says how much.

    False, and no file, where the run recorded no activity.
    """
    records = run.of_kind("activity")
    if not records:
        return False
    layers = list(records[-1]["layers"])
    towers = len(next(iter(records[-1]["layers"].values()))["activation"])
    # Not evenly spaced where a run was resumed: each record reaches to the next one.
    steps = np.array([record["step"] for record in records], dtype=float)
    edges = np.append(steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1)
    with drawing(path, 4 * (34 + 11 * len(layers) * towers)) as figure:
        panels = figure.subplots(len(_ACTIVITY), sharex=True)
        for axes, (name, title, is_size) in zip(panels, _ACTIVITY, strict=True):
            values = np.array(
                [[value for layer in layers for value in record["layers"][layer][name]] for record in records], dtype=float
            ).T
            scale: dict[str, Any] = {"vmin": 0, "vmax": 1}
            if is_size:
                positive = values[np.isfinite(values) & (values > 0)]
                low, high = (positive.min(), positive.max()) if positive.size else (1e-6, 1.0)
                scale = {"norm": LogNorm(max(low, high * 1e-8), max(high, low * 1.01))}
                values = np.where(values > 0, values, np.nan)
            shown = axes.pcolormesh(edges, np.arange(len(values) + 1), values, cmap="cividis", rasterized=True, **scale)
            axes.set_yticks(np.arange(len(layers)) * towers + towers / 2, layers, fontsize=8)
            axes.tick_params(axis="y", length=0)
            axes.set_ylim(len(values), 0)
            axes.set_title(title)
            axes.spines[:].set_visible(False)
            figure.colorbar(shown, ax=axes, pad=0.02).outline.set_visible(False)
        panels[-1].set_xlabel("step")
    return True


def _draw_rates(axes: Axes, epochs: Sequence[float], rates: Sequence[float]) -> None:
    axes.plot(epochs, rates, color=BLUE, drawstyle="steps-pre")
    axes.set_title("Learning rate")
    if min(rates) > 0 and max(rates) > min(rates):
        axes.set_yscale("log")
    shown = sorted(set(rates)) if len(set(rates)) <= 4 else [min(rates), max(rates)]
    axes.set_yticks(shown, [f"{rate:g}" for rate in shown])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.2)
    axes.grid(axis="y")


def fit(axes: Axes) -> None:
    """From 0, unless the curves stay above half their height: then from their least, so that a small fall is seen."""
    low, high = axes.dataLim.intervaly
    if not 0 < high < math.inf:  # nothing is drawn, or nothing but zeros
        low, high = 0.0, 1.0
    bottom = low if low > high / 2 else 0.0
    margin = 0.06 * (high - bottom) or 0.05 * high
    axes.set_ylim(bottom and bottom - margin, high + margin)
    axes.grid(axis="y")


def _series(records: Sequence[dict[str, Any]], figure: str) -> tuple[list[float], list[float]]:
    known = [record for record in records if record[figure] is not None]
    return [record["epoch"] for record in known], [record[figure] for record in known]


def _thinned(records: Sequence[dict[str, Any]], figure: str) -> np.ndarray:
    """Epochs and a figure, float64 [2, points]; of more than _MOST_POINTS records the means of as many stretches."""
    series = np.array(_series(records, figure), dtype=float)
    if not series.size:
        return series
    stretches = np.array_split(series, min(series.shape[1], _MOST_POINTS), axis=1)
    return np.array([stretch.mean(axis=1) for stretch in stretches]).T
