"""Where the time of a step goes: computing, waiting for crossings, and, as the bench measures them, the layers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.figures.style import BLUE, ORANGE, drawing, horizontal_grid

_MOST_BARS = 60


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
        above.set_ylim(bottom=0)
        above.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, fontsize=8)
        below.plot(steps, rate, color=BLUE)
        below.set_title("Images a second")
        below.set_ylim(bottom=0)
        below.set_xlabel("step")
        for axes in (above, below):
            axes.yaxis.set_major_locator(MaxNLocator(4))
            horizontal_grid(axes)
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
        axes.set_axisbelow(True)
        axes.legend(loc="best", fontsize=8)
