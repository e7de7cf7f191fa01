"""Activity through the layers over time: sizes of activations and of their gradients, shares of saturated and dead units."""

from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm

from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.figures.style import drawing

_PANELS = (
    ("activation", "Activations, root mean square", True),
    ("gradient", "Gradient that comes back, root mean square", True),
    ("saturated", "Saturated units", False),
    ("dead", "Dead units", False),
)


def draw_activity(run: RunFiles, path: Path) -> bool:
    """A panel for each figure: layers and towers from top to bottom, steps from left to right, the colour says how much.

    False, and no file, where the run recorded no activity.
    """
    records = run.of_kind("activity")
    if not records:
        return False
    layers = list(records[-1]["layers"])
    towers = len(next(iter(records[-1]["layers"].values()))["activation"])
    with drawing(path, 4 * (34 + 11 * len(layers) * towers)) as figure:
        panels = figure.subplots(len(_PANELS), sharex=True)
        for axes, (name, title, is_size) in zip(panels, _PANELS, strict=True):
            values = np.array(
                [[value for layer in layers for value in record["layers"][layer][name]] for record in records], dtype=float
            ).T
            norm = None
            if is_size:
                positive = values[np.isfinite(values) & (values > 0)]
                low, high = (positive.min(), positive.max()) if positive.size else (1e-6, 1.0)
                norm = LogNorm(max(low, high * 1e-8), max(high, low * 1.01))
                values = np.where(values > 0, values, np.nan)
            # Not evenly spaced where a run was resumed: each record reaches to the next one.
            steps = np.array([record["step"] for record in records], dtype=float)
            edges = np.append(steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1)
            bounds = {} if is_size else {"vmin": 0, "vmax": 1}
            rows = np.arange(len(values) + 1)
            shown = axes.pcolormesh(edges, rows, values, cmap="cividis", norm=norm, rasterized=True, **bounds)
            axes.set_yticks(np.arange(len(layers)) * towers + towers / 2, layers, fontsize=8)
            axes.tick_params(axis="y", length=0)
            axes.set_ylim(len(values), 0)
            axes.set_title(title)
            axes.spines[:].set_visible(False)
            figure.colorbar(shown, ax=axes, pad=0.02).outline.set_visible(False)
        panels[-1].set_xlabel("step")
    return True
