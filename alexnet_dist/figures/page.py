"""The report page: one HTML file of a run or of several, which needs nothing else, no network and no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from omegaconf import OmegaConf

from alexnet_dist import __version__
from alexnet_dist.figures import words
from alexnet_dist.figures.draw import Drawn
from alexnet_dist.figures.pictures import data_uri
from alexnet_dist.figures.predictions import confused_most
from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.figures.sweep import Comparison, Job
from alexnet_dist.model.cost import HEADINGS, described

# What stands in the page in another form than its file's.
_NOT_PICTURES = ("predictions", "neighbours", "step")
_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Tile:
    """A figure that stands out, what it is, and a few words more."""

    figure: str
    what: str
    more: str = ""


def run_page(run: RunFiles, drawn: Drawn, published: Mapping[str, Any] | None) -> str:
    """The page of one run; `published` is what the authors measured of the same experiment, where they did."""
    table = run.table()
    last = run.final()
    return _render(
        "run.html",
        title=run.name,
        run=run,
        state=state_of(run),
        story=_story(run),
        tiles=tiles(run),
        published=published,
        last=last,
        overrides=run.overrides(),
        configuration=OmegaConf.to_yaml(OmegaConf.create(run.config)),
        headings=HEADINGS,
        layers=[described(layer) for layer in table.layers],
        table=table,
        figures={name: _embedded(path) for name, path in drawn.files.items() if name not in _NOT_PICTURES},
        step=Markup(drawn.files["step"].read_text("utf-8")) if "step" in drawn.files else "",
        colours=drawn.colours,
        towers=_towers(run, drawn.colours),
        seen=drawn.seen,
        missing=drawn.missing,
        confused=confused_most(drawn.seen.outcome, drawn.seen.names) if drawn.seen else [],
        weights=_weights(last),
    )


def sweep_page(title: str, jobs: Sequence[Job], comparison: Comparison, folder: Path) -> str:
    """The page of several runs beside one another; `folder` is where it will stand, for its links to theirs."""
    pages = {job.name: _link(job.run.folder / "report.html", folder) for job in jobs}
    return _render(
        "sweep.html",
        title=title,
        jobs=jobs,
        states={job.name: state_of(job.run) for job in jobs},
        pages=pages,
        comparison=comparison,
        curves=_embedded(comparison.curves) if comparison.curves else None,
        kernels={job.name: _embedded(job.kernels) for job in jobs if job.kernels},
    )


def state_of(run: RunFiles) -> str:
    """How the run stands, in a word or two."""
    if run.word == "done":
        return "complete"
    if run.word == "signal":
        return "stopped by a signal"
    return "not complete"


def tiles(run: RunFiles) -> list[Tile]:
    """The figures that matter, those that are known."""
    shown = []
    if last := run.final():
        seen = f"{last['images']:,} images, {words.views_of(last)}, step {last['step']:,}"
        shown.append(Tile(words.percent(last["top1_error"]), "top-1 error", seen))
        shown.append(Tile(words.percent(last["top5_error"]), "top-5 error", seen))
    rate, seconds = run.typical("images_per_second"), run.typical("step_seconds")
    if rate is not None and seconds is not None:
        shown.append(Tile(f"{rate:,.0f}", "images a second", f"median; a step takes {1000 * seconds:.0f} ms"))
    share = exposed_share(run)
    if share is not None:
        crossed = words.bytes_in_words(run.typical("crossing_bytes"))
        shown.append(Tile(words.percent(share, 1), "of the time exposed to crossings", f"a process sends {crossed} a step"))
    if peak := run.most("peak_memory_bytes"):
        shown.append(Tile(words.bytes_in_words(peak), "peak memory", "of the process that held most"))
    if spent := run.seconds():
        shown.append(Tile(words.duration(spent), "spent", "over all starts" if len(run.starts) > 1 else ""))
    return shown


def exposed_share(run: RunFiles) -> float | None:
    """The share of a step's time that the computation stood waiting for crossings, over all records."""
    train = run.of_kind("train")
    seconds = sum(record["step_seconds"] for record in train)
    return sum(record["crossing_exposed_seconds"] for record in train) / seconds if seconds else None


def _story(run: RunFiles) -> str:
    table, config = run.table(), run.config
    start = run.starts[-1] if run.starts else {}
    held = f" in {start['processes']} process{'es' if start['processes'] > 1 else ''} on {start['device']}" if start else ""
    steps = run.records[-1]["step"] if run.records else 0
    epochs = run.records[-1]["epoch"] if run.records else 0
    return (
        f"{table.name}: {table.towers} towers{held}, {config['precision']['kind']}; "
        f"{table.parameters:,} parameters; {epochs:.3g} epochs, {steps:,} steps of {config['trainer']['batch_size']} images."
    )


def _towers(run: RunFiles, colours: Sequence[float]) -> list[dict[str, str]]:
    """For each tower what is known of it: how coloured its kernels are, how long it waits in a step, what memory it took."""
    towers: list[dict[str, str]] = [{"colour": words.percent(share, 1)} for share in colours]
    figures = [record["towers"] for record in run.of_kind("train") if "towers" in record]
    if not figures:
        return towers
    towers = towers or [{} for _ in figures[0]["peak_memory_bytes"]]
    for tower, told in enumerate(towers):
        waits = median(figure["crossing_exposed_seconds"][tower] for figure in figures)
        told["waits for crossings"] = f"{1000 * waits:.3g} ms a step"
        told["peak memory"] = words.bytes_in_words(max(figure["peak_memory_bytes"][tower] for figure in figures))
    return towers


def _weights(last: Mapping[str, Any] | None) -> list[tuple[str, list[str], list[str]]]:
    """For each layer the mean |weight| and mean |update| of each tower, as the last validation noted them."""
    layers = (last or {}).get("layers", {})

    def written(sizes: Mapping[str, Any], figure: str) -> list[str]:
        return [f"{value:.2e}" for value in sizes[figure]]

    return [(name, written(sizes, "weight"), written(sizes, "update")) for name, sizes in layers.items()]


def _embedded(path: Path) -> str:
    return data_uri(path.read_bytes(), _KINDS[path.suffix])


def _link(page: Path, folder: Path) -> str | None:
    if not page.is_file():
        return None
    page, folder = page.resolve(), folder.resolve()
    return page.relative_to(folder).as_posix() if page.is_relative_to(folder) else page.as_uri()


def _render(template: str, **context: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "duration": words.duration,
        "moment": words.moment,
        "bytes": words.bytes_in_words,
        "jpeg": lambda encoded: data_uri(encoded, "image/jpeg"),
    }
    return environment.get_template(template).render(version=__version__, views_of=words.views_of, **context)
