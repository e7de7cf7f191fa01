"""All figures of a run, drawn from its folder into its `figures/`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_dist.errors import UserError
from alexnet_dist.figures.activity import draw_activity
from alexnet_dist.figures.curves import draw_curves
from alexnet_dist.figures.kernels import colour_shares, draw_kernels, first_kernels
from alexnet_dist.figures.neighbours import draw_neighbours
from alexnet_dist.figures.predictions import draw_confusion, draw_predictions
from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.figures.seen import Looking, Seen, look_at_images, read_seen
from alexnet_dist.figures.step_picture import draw_step
from alexnet_dist.figures.step_time import draw_layers, draw_step_time


@dataclass(frozen=True)
class Drawn:
    """What was drawn of a run: `files` by the figure's name, how coloured each tower's kernels are, and what the net made of
    images or, in `missing`, why that is not known."""

    files: dict[str, Path]
    colours: list[float]
    seen: Seen | None
    missing: str


def draw_run(
    run: RunFiles,
    looking: Looking,
    show: Callable[[str, int, int], None],
    layers: dict[str, dict[str, float]] | None = None,
) -> Drawn:
    """Draw what the files of a run allow; `layers` are the times of `bench step`, by layer.

    Raises:
        UserError: the folder cannot be written, or the checkpoint cannot be read.
    """
    folder = run.folder / "figures"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): make {run.folder} writable") from None
    files: dict[str, Path] = {}

    def drawn(name: str, draw: Callable[[Path], bool | None], suffixes: tuple[str, ...] = (".svg",)) -> None:
        for suffix in suffixes:
            path = folder / f"{name}{suffix}"
            if draw(path) is not False:
                files.setdefault(name, path)

    drawn("curves", lambda path: draw_curves(run, path))
    drawn("step_time", lambda path: draw_step_time(run, path))
    drawn("activity", lambda path: draw_activity(run, path))
    if timeline := run.timeline():
        drawn("step", lambda path: draw_step(timeline, path))
    if layers:
        drawn("layers", lambda path: draw_layers(layers, path))
    table = run.table()
    kernels = first_kernels(run.checkpoint, table) if run.checkpoint else None
    if kernels is not None:
        drawn("kernels", lambda path: draw_kernels(kernels, table.towers, path), (".svg", ".png"))
    seen, missing = _see(run, looking, show)
    if seen:
        drawn("predictions", lambda path: draw_predictions(seen.outcome.predictions, path), (".webp",))
        drawn("neighbours", lambda path: draw_neighbours(seen.neighbourhood, path), (".webp",))
        drawn("confusion", lambda path: draw_confusion(seen.outcome, seen.names, path))
    return Drawn(files, colour_shares(kernels, table.towers) if kernels is not None else [], seen, missing)


def read_layers(bench: str | None) -> dict[str, dict[str, float]] | None:
    """The times by layer in a file that `bench step` has left. Raises UserError where it is none or has none."""
    if bench is None:
        return None
    try:
        measured: dict[str, Any] = json.loads(Path(bench).read_text())
        layers: dict[str, dict[str, float]] = measured["layers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"bench={bench} is not what `bench step` writes ({error}): name the JSON file that it has left") from None
    return layers


def _see(run: RunFiles, looking: Looking, show: Callable[[str, int, int], None]) -> tuple[Seen | None, str]:
    try:
        return look_at_images(run, looking, show), ""
    except UserError as error:
        return read_seen(run), str(error)
