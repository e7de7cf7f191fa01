"""What the net says of validation images: the five best labels of a few (paper, figure 4, left), and who is taken for whom."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Base64Bytes

from alexnet_dist.data.images import Images, Subset
from alexnet_dist.figures.style import BLUE, RED, drawing, short
from alexnet_dist.figures.viewer import Viewer, caption, evenly_spread, open_picture
from alexnet_dist.results.predictions import output_names

SHOWN = 8  # as in the paper
MOST_CONFUSED = 2000  # labels in the picture of what is taken for what
_MISTAKES = 4  # of them, where there are so many


@dataclass(frozen=True)
class Prediction:
    """An image, its label, and the best labels (five, or all where there are fewer) with their probabilities, best first.

    `place` is where its own label stands among these, None where it does not: two classes may be called alike.
    """

    name: str
    label: str
    best: list[tuple[str, float]]
    place: int | None
    picture: Base64Bytes


@dataclass(frozen=True)
class Outcome:
    """`confusion` holds (label, label said, how many images); `images` of the `total` validation images were taken."""

    predictions: list[Prediction]
    confusion: list[tuple[int, int, int]]
    images: int
    total: int


def predict(viewer: Viewer, validation: Images, most: int | None, show: Callable[[int, int], None]) -> Outcome:
    """What the net says of the centre views of at most `most` validation images, evenly spread.

    Shown are the four mistakes of which the net was surest, where it made so many, and others evenly spread.
    """
    taken = Subset(validation, evenly_spread(len(validation), most))
    best, chances, labels = [], [], []
    for pixels, truth in viewer.pixels(taken):
        top = viewer.see(pixels)[0].topk(min(5, viewer.net.table.classes), dim=1)
        best.append(top.indices.cpu())
        chances.append(top.values.cpu())
        labels.append(truth.cpu())
        show(sum(map(len, labels)), len(taken))
    said, sure, right = (torch.cat(parts).numpy() for parts in (best, chances, labels))
    chosen = _choose(said[:, 0] != right, sure[:, 0])
    shown = Subset(taken, chosen)
    names = output_names(validation.classes, viewer.net.table.classes)
    predictions = [
        Prediction(
            *caption(shown, number),
            best=[(names[label], float(p)) for label, p in zip(said[i], sure[i], strict=True)],
            place=next(iter(np.flatnonzero(said[i] == right[i]).tolist()), None),
            picture=picture,
        )
        for number, (i, picture) in enumerate(zip(chosen, viewer.thumbnails(shown), strict=True))
    ]
    pairs, counts = np.unique(np.stack([right, said[:, 0]], axis=1), axis=0, return_counts=True)
    confusion = [(label, other, count) for (label, other), count in zip(pairs.tolist(), counts.tolist(), strict=True)]
    return Outcome(predictions, confusion, len(taken), len(validation))


def draw_predictions(predictions: list[Prediction], path: Path) -> None:
    """The images with a bar for each of the five best labels, the right one's red."""
    columns = 4
    rows = -(-len(predictions) // columns)
    with drawing(path, 230 * rows, 190 * columns) as figure:
        cells = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[1.5, 1] * rows)
        for axes in cells.flat:
            axes.set_axis_off()
        for number, prediction in enumerate(predictions):
            row, column = divmod(number, columns)
            above, below = cells[2 * row, column], cells[2 * row + 1, column]
            above.imshow(open_picture(prediction.picture), interpolation="antialiased")
            above.set_title(short(prediction.label), loc="center")
            names, chances = zip(*prediction.best, strict=True)
            heights = range(len(names), 0, -1)
            colours = [RED if place == prediction.place else BLUE for place in range(len(names))]
            below.barh([height - 0.32 for height in heights], chances, color=colours, height=0.2)
            below.set_xlim(0, 1)
            below.set_ylim(0.4, 5.6)
            for place, (height, name) in enumerate(zip(heights, names, strict=True)):
                weight = "bold" if place == prediction.place else "normal"
                below.text(0, height + 0.08, short(name), va="center", fontsize=8.5, fontweight=weight)


def draw_confusion(outcome: Outcome, names: list[str], path: Path) -> bool:
    """The share of each label's images (a row) that were taken for each label (a column); `names` by label. False, and no file,
    where the labels are more than a picture has dots for."""
    labels, said, images = np.array(outcome.confusion).T
    count = max(labels.max(), said.max()) + 1
    if count > MOST_CONFUSED:
        return False
    matrix = np.zeros((count, count))
    matrix[labels, said] = images
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with drawing(path, 380) as figure:
        axes = figure.subplots()
        shown = axes.imshow(matrix, cmap="cividis", vmin=0, vmax=1)
        told = [short(name) for name in names[:count]] if count <= 20 else []
        axes.set_xticks(range(len(told)), told, rotation=90, fontsize=8)
        axes.set_yticks(range(len(told)), told, fontsize=8)
        axes.tick_params(length=0)
        axes.set_xlabel("said")
        axes.set_ylabel("is")
        axes.spines[:].set_visible(False)
        if count <= 10:
            for row, column in zip(labels, said, strict=True):
                share = matrix[row, column]
                colour = "black" if share > 0.6 else "white"
                axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7, color=colour)
        figure.colorbar(shown, ax=axes, shrink=0.5, format=lambda value, _: f"{value:.0%}").outline.set_visible(False)
    return True


def confused_most(outcome: Outcome, names: list[str], most: int = 10) -> list[tuple[str, str, int]]:
    """The pairs (label, label said, how many images) of the most frequent mistakes."""
    mistakes = sorted((row for row in outcome.confusion if row[0] != row[1]), key=lambda row: -row[2])
    return [(names[label], names[said], count) for label, said, count in mistakes[:most]]


def _choose(wrong: np.ndarray, sure: np.ndarray) -> list[int]:
    mistakes = np.flatnonzero(wrong)
    surest = mistakes[np.argsort(-sure[mistakes], kind="stable")][:_MISTAKES]
    others = np.setdiff1d(np.arange(len(wrong)), surest)
    spread = others[evenly_spread(len(others), SHOWN - len(surest))]
    return [int(index) for index in (*spread, *surest)]
