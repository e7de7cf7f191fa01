"""The first layer's kernels by tower (paper, figure 3), how coloured each tower's are, and the filters of later convolutions."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from alexnet_dist.figures.style import drawing
from alexnet_dist.model.net import Net

_COLUMNS = 16  # the paper's: 48 kernels of a tower in three rows
_FILTERS, _MAPS = 6, 12  # of a later convolution: filters of a tower, and of each the parts that read so many maps


def first_kernels(net: Net) -> torch.Tensor | None:
    """A whole net's first weights, float32 [filters, 3, kernel, kernel] in tower order; None where it begins otherwise."""
    layer = net.table.layers[0]
    return net.get_parameter(f"{layer.name}.weight").detach().cpu() if layer.kind == "conv" else None


def colour_shares(kernels: torch.Tensor, towers: int) -> list[float]:
    """How coloured each tower's kernels [filters, 3, k, k] are, from 0 (grey) to 1.

    A kernel's weights at one pixel are a vector (r, g, b). Its part along (1, 1, 1) answers to brightness alone; what is left
    of it answers to colour. The figure is the share of the tower's energy, its sum of squared weights, that lies outside the
    grey axis. Weights drawn at random, as all are before training, have 2/3.
    """
    shares = []
    for own in kernels.double().chunk(towers):
        energy = own.square().sum()
        grey = 3 * own.mean(dim=1).square().sum()  # the squared length of the projection on (1, 1, 1) / sqrt(3)
        shares.append(float(1 - grey / energy) if energy > 0 else 0.0)
    return shares


def draw_kernels(kernels: torch.Tensor, towers: int, path: Path, of: str = "") -> None:
    """The kernels [filters, 3, k, k] as pictures, tower 0 above tower 1, each scaled to its own range as the authors' plot is."""
    rows = -(-kernels.shape[0] // towers // _COLUMNS)
    size = kernels.shape[-1] + 1
    with drawing(path, towers * (rows * 380 / _COLUMNS + 24), of=of) as figure:
        all_axes = figure.subplots(towers, squeeze=False)[:, 0]
        shares = colour_shares(kernels, towers)
        for tower, (axes, own, share) in enumerate(zip(all_axes, kernels.chunk(towers), shares, strict=True)):
            axes.imshow(mosaic(own), extent=(0, _COLUMNS * size, 0, rows * size))
            axes.set_title(f"tower {tower}: {share:.0%} of its energy is colour")
            axes.set_axis_off()


def mosaic(kernels: torch.Tensor) -> np.ndarray:
    """Kernels [n, 3, k, k] in rows of sixteen, each scaled to 0..1 and a transparent pixel apart: float32 [H, W, 4]."""
    low, high = kernels.amin(dim=(1, 2, 3), keepdim=True), kernels.amax(dim=(1, 2, 3), keepdim=True)
    opaque = F.pad((kernels - low) / (high - low).clamp_min(1e-12), (0, 0, 0, 0, 0, 1), value=1)
    tiles = F.pad(opaque, (0, 1, 0, 1, 0, 0, 0, -len(opaque) % _COLUMNS)).unflatten(0, (-1, _COLUMNS))
    return tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()


def draw_filters(net: Net, path: Path, of: str = "") -> bool:
    """The strongest filters of the convolutions behind the first, by tower; whether there are any.

    A row is a filter; a tile is its weights for one map that it reads, the strongest first. They reach from blue (negative) over
    white to red, each filter scaled to its own largest weight.
    """
    later = [layer.name for layer in net.table.layers[1:] if layer.kind == "conv"]
    if not later:
        return False
    towers = net.table.towers
    with drawing(path, 115 * towers, 200 * len(later), of=of) as figure:
        figure.set_layout_engine("constrained", wspace=0.05, hspace=0.05)
        cells = figure.subplots(towers, len(later), squeeze=False)
        for column, name in zip(cells.T, later, strict=True):
            weights = net.get_parameter(f"{name}.weight").detach().cpu()
            for tower, (axes, own) in enumerate(zip(column, weights.chunk(towers), strict=True)):
                axes.imshow(strongest_filters(own), cmap="RdBu_r", vmin=-1, vmax=1)
                axes.set_title(f"{name}, tower {tower}")
                axes.set_axis_off()
    return True


def strongest_filters(weights: torch.Tensor) -> np.ndarray:
    """Of weights [filters, maps, k, k] the largest filters in rows, of each the largest maps, a NaN apart: float32 [H, W].

    Large is what has a large sum of squares. A filter is divided by its largest absolute weight.
    """
    rows = []
    for own in weights[weights.square().sum(dim=(1, 2, 3)).topk(min(_FILTERS, len(weights))).indices]:
        strongest = own[own.square().sum(dim=(1, 2)).topk(min(_MAPS, len(own))).indices] / own.abs().max().clamp_min(1e-12)
        rows.append(F.pad(strongest, (0, 1, 0, 1), value=torch.nan).permute(1, 0, 2).flatten(1))
    return torch.cat(rows)[:-1, :-1].numpy()
