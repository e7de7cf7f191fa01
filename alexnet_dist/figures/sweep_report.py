"""Several runs beside one another: what differs, what each came to, and what the authors measured of the same experiments."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch
from rich.table import Table as RichTable

from alexnet_dist import text
from alexnet_dist.fields import flat
from alexnet_dist.figures.ablations import Ablation, ablations, draw_ablations
from alexnet_dist.figures.curves import draw_comparison
from alexnet_dist.figures.kernels import colour_shares, draw_kernels, first_kernels
from alexnet_dist.figures.page import PAGE, embedded, figures_folder, write_page
from alexnet_dist.figures.run_files import RunFiles, read_run
from alexnet_dist.results.trained import load_trained, open_trained
from alexnet_dist.tracking.display import Display


@dataclass(frozen=True)
class Job:
    """A run of several: `differs` are the overrides that set it apart, `colours` those of its drawn `kernels` by tower."""

    name: str
    run: RunFiles
    differs: list[str]
    kernels: Path | None
    colours: list[float]


def report_of_sweep(folders: Sequence[Path], sweep: str | None, display: Display, output: str | None) -> Path:
    """Make the page of several runs beside one another; its path. Raises UserError where that cannot be done."""
    runs = [read_run(folder) for folder in folders]
    page = Path(output or Path(sweep or "") / PAGE)
    figures = figures_folder(page, named=output is not None)
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    jobs = []
    for name, run, differs in zip(names, runs, what_differs(runs), strict=True):
        jobs.append(_job(name, run, differs, figures))
        display.show("drawing", len(jobs), len(runs))
    curves = figures / "curves.svg"
    has_curves = draw_comparison([(" ".join([job.name, *job.differs]), job.run) for job in jobs], curves)
    display.console.print(runs_table(jobs))
    compared, comparison = ablations(runs), figures / "ablations.svg"
    has_comparison = draw_ablations(compared, comparison)
    if compared:
        display.console.print(ablations_table(compared))
    return write_page(
        page,
        "sweep.html",
        title=Path(sweep).resolve().name if sweep else ", ".join(names),
        jobs=jobs,
        pages={job.name: _link(job.run.folder / PAGE, page.parent) for job in jobs},
        ablations=compared,
        comparison=embedded(comparison) if has_comparison else None,
        curves=embedded(curves) if has_curves else None,
        kernels={job.name: embedded(job.kernels) for job in jobs if job.kernels},
    )


def _job(name: str, run: RunFiles, differs: list[str], figures: Path) -> Job:
    kernels = None
    if run.checkpoint:
        kernels = first_kernels(load_trained(open_trained(str(run.checkpoint)), torch.device("cpu"))[0])
    if kernels is None:
        return Job(name, run, differs, None, [])
    drawn, towers = figures / f"kernels-{name.replace(os.sep, '_')}.svg", run.table().towers
    draw_kernels(kernels, towers, drawn)
    return Job(name, run, differs, drawn, colour_shares(kernels, towers))


def what_differs(runs: Sequence[RunFiles]) -> list[list[str]]:
    """For each run the overrides that not all have; where none has noted its own, the settings whose values differ."""
    overrides = [run.overrides() for run in runs]
    if any(overrides):
        common = set(overrides[0]).intersection(*overrides[1:])
        return [[said for said in own if said not in common and not said.startswith("run.dir=")] for own in overrides]
    settings = [flat(run.config) for run in runs]
    keys = sorted(set().union(*settings) - {"run.dir", "tracking.name", "tracking.group"})
    varied = [key for key in keys if len({repr(own.get(key)) for own in settings}) > 1]
    return [[f"{key}={own[key]}" for key in varied if key in own] for own in settings]


def runs_table(jobs: Sequence[Job]) -> RichTable:
    """A row for each run with the overrides that set it apart."""
    numbers = ("top-1", "top-5", "epochs", "images/s")
    rows = []
    for job in jobs:
        run, last = job.run, job.run.final()
        errors = [text.percent(last[error]) if last else "" for error in ("top1_error", "top5_error")]
        epochs = f"{run.records[-1]['epoch']:.3g}" if run.records else ""
        typical = run.typical("images_per_second")
        rate = "" if typical is None else f"{typical:,.0f}"
        rows.append((job.name, "\n".join(job.differs), *errors, epochs, rate, run.standing))
    return text.table("", ("run", "what differs", *numbers, "state"), rows, numbers)


def ablations_table(rows: Sequence[Ablation]) -> RichTable:
    """A row for each experiment: top-1 and top-5 error in percent over its seeds, and by how many points either is worse than the
    whole net's, here and with the authors."""
    numbers = ("seeds", "top-1 / top-5", "worse by", "the authors")
    shown = []
    for row in rows:
        worse = (text.points(row.here_worse, "+"), text.points(row.authors_worse, "+"))
        shown.append((row.label, str(len(row.seeds)), text.points(row.here), *worse))
    return text.table("Beside the authors' numbers", ("experiment", *numbers), shown, numbers)


def _link(page: Path, folder: Path) -> str | None:
    if not page.is_file():
        return None
    page, folder = page.resolve(), folder.resolve()
    return quote(page.relative_to(folder).as_posix()) if page.is_relative_to(folder) else page.as_uri()
