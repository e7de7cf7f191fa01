"""Training images that the net finds most like a test image: the nearest by the last hidden layer (paper, figure 4, right)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Base64Bytes

from alexnet_dist.data.images import Images, Subset
from alexnet_dist.figures.style import drawing
from alexnet_dist.figures.viewer import Viewer, caption, evenly_spread, open_picture

QUERIES, NEAREST = 5, 6  # as in the paper


@dataclass(frozen=True)
class Neighbour:
    """A training image near a test image, and the Euclidean distance of their features."""

    name: str
    label: str
    distance: float
    picture: Base64Bytes


@dataclass(frozen=True)
class Query:
    """A test image and the training images nearest to it, nearest first."""

    name: str
    label: str
    picture: Base64Bytes
    nearest: list[Neighbour]


@dataclass(frozen=True)
class Neighbourhood:
    """`layer` gave the features; `searched` of `total` training images were searched."""

    queries: list[Query]
    layer: str
    searched: int
    total: int


def nearest(queries: torch.Tensor, batches: Iterable[torch.Tensor], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row of queries float32 [q, d] the `count` nearest rows of all batches float32 [b, d], numbered through.

    Returns Euclidean distances float32 and numbers int64, [q, count], nearest first and exact; fewer columns for fewer rows.
    Only one batch is held at a time, so that 1.2 million rows of 4096 need no more memory than one batch of them.
    """
    distances = queries.new_empty(len(queries), 0)
    numbers = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    first = 0
    for batch in batches:
        own = torch.cdist(queries, batch, compute_mode="donot_use_mm_for_euclid_dist")
        rows = torch.arange(first, first + len(batch), device=queries.device).expand(len(queries), -1)
        distances, numbers = torch.cat([distances, own], dim=1), torch.cat([numbers, rows], dim=1)
        distances, places = distances.topk(min(count, distances.shape[1]), dim=1, largest=False)
        numbers = numbers.gather(1, places)
        first += len(batch)
    return distances, numbers


def find_neighbours(
    viewer: Viewer, validation: Images, train: Images, most: int | None, show: Callable[[int, int], None]
) -> Neighbourhood:
    """Five validation images, evenly spread, with the six training images nearest, of at most `most` that are searched."""
    asked = Subset(validation, evenly_spread(len(validation), QUERIES))
    searched = Subset(train, evenly_spread(len(train), most))
    features = torch.cat([viewer.see(pixels)[1] for pixels, _ in viewer.pixels(asked)])

    def batches() -> Iterable[torch.Tensor]:
        done = 0
        for pixels, _ in viewer.pixels(searched):
            yield viewer.see(pixels)[1]
            show(done := done + len(pixels), len(searched))

    distances, numbers = nearest(features, batches(), NEAREST)
    found = Subset(searched, numbers.flatten().tolist())
    pictures = viewer.thumbnails(found)
    neighbours = [
        Neighbour(*caption(found, place), distance, pictures[place])
        for place, distance in enumerate(distances.flatten().tolist())
    ]
    each = distances.shape[1]
    queries = [
        Query(*caption(asked, row), picture, neighbours[row * each : (row + 1) * each])
        for row, picture in enumerate(viewer.thumbnails(asked))
    ]
    return Neighbourhood(queries, viewer.features, len(searched), len(train))


def draw_neighbours(neighbourhood: Neighbourhood, path: Path) -> None:
    """A row for each test image: itself in the first column, the training images nearest in the others."""
    rows = len(neighbourhood.queries)
    with drawing(path, 84 * rows, 84 * (NEAREST + 1)) as figure:
        cells = figure.subplots(rows, NEAREST + 1, squeeze=False, width_ratios=[1.25, *[1] * NEAREST])
        for axes in cells.flat:
            axes.set_axis_off()
        for row, query in enumerate(neighbourhood.queries):
            shown = [query.picture, *(neighbour.picture for neighbour in query.nearest)]
            for axes, picture in zip(cells[row], shown, strict=False):
                axes.imshow(open_picture(picture), interpolation="antialiased")
