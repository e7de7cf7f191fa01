"""The report of one run: its figures, its page and the table that says how it stands."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from markupsafe import Markup
from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from alexnet_dist import text
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.figures.curves import draw_activity, draw_curves, draw_layers, draw_step_time
from alexnet_dist.figures.examples import ExampleOptions, Examples, find_examples, read_examples
from alexnet_dist.figures.kernels import colour_shares, draw_filters, draw_kernels, first_kernels
from alexnet_dist.figures.maps import draw_maps, layers_with_maps
from alexnet_dist.figures.neighbours import draw_neighbours
from alexnet_dist.figures.page import PAGE, UnwritableError, embedded, figures_folder, tiles, write_page
from alexnet_dist.figures.predictions import confused_most, draw_confusion, draw_predictions
from alexnet_dist.figures.published import PUBLISHED
from alexnet_dist.figures.run_files import RunFiles, read_run
from alexnet_dist.figures.step_picture import draw_step
from alexnet_dist.model.cost import HEADINGS, NUMBERS, described
from alexnet_dist.model.net import Net
from alexnet_dist.results.trained import load_trained, open_trained
from alexnet_dist.tracking.display import Display

_NOT_PICTURES = ("predictions", "neighbours", "step")  # which stand in the page in another form than their file's

Layers = dict[str, dict[str, float]]  # seconds of a step in each layer, forward and backward


@dataclass(frozen=True)
class Drawn:
    """What was drawn of a run: `files` by the figure's name, how coloured each tower's kernels are, and what the net made of
    images or, in `missing`, why that is not known."""

    files: dict[str, Path]
    colours: list[float]
    examples: Examples | None
    missing: str


def report_of_run(
    folder: Path, options: ExampleOptions, display: Display, output: str | None = None, layers: Layers | None = None
) -> Path:
    """Draw a run's figures and make its page; the page's path. `layers` are the times of `bench step`.

    Raises:
        UserError: the page or its figures cannot be written, the checkpoint cannot be read, or the layer whose maps are wanted
            has none.
    """
    run = read_run(folder)
    layers_with_maps(run.table(), options.layer)
    page = Path(output or folder / PAGE)
    drawn = draw_run(run, figures_folder(page, named=output is not None), options, display.show, layers)
    if drawn.missing:
        display.say(f"without new predictions and neighbours: {drawn.missing}")
    return _write_run_page(page, run, drawn)


def draw_run(
    run: RunFiles, folder: Path, options: ExampleOptions, show: Callable[[str, int, int], None], layers: Layers | None
) -> Drawn:
    """Draw what the files of a run allow. Raises UserError where the checkpoint cannot be read or a figure not be written."""
    files: dict[str, Path] = {}

    def drawn(name: str, draw: Callable[[Path], bool | None], suffixes: tuple[str, ...] = (".svg",)) -> None:
        for suffix in suffixes:
            path = folder / f"{name}{suffix}"
            if draw(path) is not False:
                files.setdefault(name, path)

    @cache
    def load() -> tuple[Net, Preprocess]:
        return load_trained(open_trained(str(run.checkpoint)), torch.device("cpu"))

    drawn("curves", lambda path: draw_curves(run, path))
    drawn("step_time", lambda path: draw_step_time(run, path))
    drawn("activity", lambda path: draw_activity(run, path))
    # Of processes that hold several towers each the lanes would be no towers'.
    if (timeline := run.timeline()) and len(timeline["towers"]) == run.table().towers:
        drawn("step", lambda path: draw_step(timeline, path))
    if layers:
        drawn("layers", lambda path: draw_layers(layers, path))
    towers, weights = run.table().towers, (run.state and run.state.weights) or ""
    kernels = first_kernels(load()[0]) if run.checkpoint else None
    if kernels is not None:
        drawn("kernels", lambda path: draw_kernels(kernels, towers, path, of=weights), (".svg", ".png"))
    if run.checkpoint:
        drawn("filters", lambda path: draw_filters(load()[0], path, of=weights), (".png",))
    examples, missing = None, ""
    try:
        examples = find_examples(run, load, options, folder, show)
    except UnwritableError:
        raise
    except UserError as error:
        examples, missing = read_examples(run, folder), str(error)
    if examples:
        drawn("predictions", lambda path: draw_predictions(examples.outcome.predictions, path), (".webp",))
        drawn("maps", lambda path: draw_maps(examples.looks, path), (".webp",))
        drawn("neighbours", lambda path: draw_neighbours(examples.neighbourhood, path), (".webp",))
        drawn("confusion", lambda path: draw_confusion(examples.outcome, examples.names, path))
    return Drawn(files, colour_shares(kernels, towers) if kernels is not None else [], examples, missing)


def read_layers(bench: str | None) -> Layers | None:
    """The times by layer in a file that `bench step` has left. Raises UserError where it is none or has none."""
    if bench is None:
        return None
    try:
        return TypeAdapter(Layers).validate_python(json.loads(Path(bench).read_text())["layers"])
    except ValidationError:
        reason = "its layers have no times"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise UserError(f"bench={bench} is not what `bench step` writes ({reason}): name the JSON file that it has left")


def run_table(run: RunFiles) -> RichTable:
    """The figures of a run that matter, one a line."""
    shown = RichTable(title=Text(f"{run.name}, {run.standing}"), title_justify="left", box=box.SIMPLE, show_header=False)
    shown.add_column(justify="right", no_wrap=True)
    shown.add_column()
    for tile in tiles(run):
        shown.add_row(tile.figure, f"{tile.what} ({tile.more})" if tile.more else tile.what)
    return shown


def _write_run_page(page: Path, run: RunFiles, drawn: Drawn) -> Path:
    table, last, examples = run.table(), run.final(), drawn.examples
    return write_page(
        page,
        "run.html",
        title=run.name,
        run=run,
        story=_story(run),
        tiles=tiles(run),
        published=PUBLISHED.get(run.experiment()),
        overrides=run.overrides(),
        configuration=OmegaConf.to_yaml(OmegaConf.create(run.config)),
        headings=HEADINGS,
        numbers=NUMBERS,
        layers=[described(layer) for layer in table.layers],
        table=table,
        figures={name: embedded(path) for name, path in drawn.files.items() if name not in _NOT_PICTURES},
        step=Markup(drawn.files["step"].read_text("utf-8")) if "step" in drawn.files else "",
        colours=drawn.colours,
        towers=_towers(run, drawn.colours),
        examples=examples,
        missing=drawn.missing,
        confused=confused_most(examples.outcome, examples.names) if examples else [],
        weights=_weights(last),
    )


def _story(run: RunFiles) -> str:
    table, config = run.table(), run.config
    start = run.starts[-1] if run.starts else {}
    held = f" in {text.counted(start['processes'], 'process')} on {start['device']}" if start else ""
    steps = run.records[-1]["step"] if run.records else run.state.step if run.state else 0
    epochs = run.records[-1]["epoch"] if run.records else run.state.epochs_done if run.state else 0
    return (
        f"{table.name}: {text.counted(table.towers, 'tower')}{held}, {config['precision']['kind']}; "
        f"{table.parameters:,} parameters; {epochs:.3g} epochs, {steps:,} steps of {config['trainer']['batch_size']} images."
    )


def _towers(run: RunFiles, colours: Sequence[float]) -> list[dict[str, str]]:
    """For each tower what is known of it: how coloured its kernels are, how long it waits in a step, what memory it took."""
    towers: list[dict[str, str]] = [{"colour": text.percent(share, 1)} for share in colours]
    figures = [record["towers"] for record in run.of_kind("train") if "towers" in record]
    if not figures:
        return towers
    towers = towers or [{} for _ in figures[0]["peak_memory_bytes"]]
    for tower, told in enumerate(towers):
        waits = median(figure["crossing_exposed_seconds"][tower] for figure in figures)
        told["waits for crossings"] = f"{1000 * waits:.3g} ms a step"
        told["peak memory"] = text.byte_size(max(figure["peak_memory_bytes"][tower] for figure in figures))
    return towers


def _weights(last: Mapping[str, Any] | None) -> list[tuple[str, list[str], list[str]]]:
    """For each layer the mean |weight| and mean |update| of each tower, as the last validation noted them."""
    layers = (last or {}).get("layers", {})

    def written(sizes: Mapping[str, Any], figure: str) -> list[str]:
        return ["not finite" if value is None else f"{value:.2e}" for value in sizes[figure]]

    return [(name, written(sizes, "weight"), written(sizes, "update")) for name, sizes in layers.items()]
