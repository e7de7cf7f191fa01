"""A page of a run, or of a sweep's runs beside one another: one HTML file that opens anywhere.

python -m alexnet_dist.report run=runs/x
python -m alexnet_dist.report sweep=runs/sweep-2012-09-30_12-00-00
python -m alexnet_dist.report 'run=[runs/x,runs/y]' output=both.html
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from alexnet_dist.errors import UserError
from alexnet_dist.figures.curves import draw_comparison
from alexnet_dist.figures.draw import read_layers
from alexnet_dist.figures.kernels import colour_shares, draw_kernels, first_kernels
from alexnet_dist.figures.page import sweep_page
from alexnet_dist.figures.report_of_run import PAGE, report_of_run, run_table, runs_table, write_page
from alexnet_dist.figures.run_files import folders_of, read_run
from alexnet_dist.figures.seen import Looking
from alexnet_dist.figures.sweep import Comparison, Job, ablations, what_differs
from alexnet_dist.launching.commands import command
from alexnet_dist.settings import FilePath, Positive, check, strict
from alexnet_dist.tracking.display import Display


@dataclass(frozen=True, config=strict)
class ReportedData:
    """Where the images are; what is null is as the run was trained."""

    root: FilePath | None
    val_every: int | None
    threads: Positive | None


@dataclass(frozen=True, config=strict)
class ReportSettings:
    """What conf/report.yaml may say."""

    run: FilePath | list[FilePath] | None
    sweep: FilePath | None
    output: FilePath | None
    images: Positive | None
    neighbours: Positive | None
    batch_size: Positive
    device: Literal["auto", "cpu", "cuda"]
    data: ReportedData
    bench: FilePath | None

    def looking(self) -> Looking:
        given = {"root": self.data.root, "val_every": self.data.val_every, "threads": self.data.threads}
        data = {key: value for key, value in given.items() if value is not None}
        return Looking(self.images, self.neighbours, self.batch_size, self.device, data)


def report(config: dict[str, Any]) -> None:
    """Make the page that a composed conf/report.yaml asks for, and print its main table."""
    settings = check(ReportSettings, config)
    folders = folders_of(settings.run, settings.sweep)
    layers = read_layers(settings.bench)
    with Display(rank=0) as display:
        if isinstance(settings.run, str):
            page = report_of_run(folders[0], settings.looking(), display, settings.output, layers)
            display.console.print(run_table(read_run(folders[0])))
        else:
            if settings.sweep is None and settings.output is None:
                raise UserError("output is not set: name the page of several runs with output=...")
            page = report_of_sweep(folders, settings.sweep, display, settings.output)
        display.say(f"report: {page}")


def report_of_sweep(folders: Sequence[Path], sweep: str | None, display: Display, output: str | None) -> Path:
    """Make the page of several runs beside one another. Raises UserError where that cannot be done."""
    runs = [read_run(folder) for folder in folders]
    page = Path(output or Path(sweep or "") / PAGE)
    figures = page.parent / ("figures" if output is None else f"{page.stem}-figures")
    try:
        figures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{figures} cannot be made ({error.strerror}): set output to a page elsewhere") from None
    jobs = []
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    for done, (name, run, differs) in enumerate(zip(names, runs, what_differs(runs), strict=True), 1):
        kernels = first_kernels(run.checkpoint, table := run.table()) if run.checkpoint else None
        drawn = figures / f"kernels-{name.replace(os.sep, '_')}.svg" if kernels is not None else None
        if kernels is not None and drawn:
            draw_kernels(kernels, table.towers, drawn)
        jobs.append(Job(name, run, differs, drawn, colour_shares(kernels, table.towers) if kernels is not None else []))
        display.show("drawing", done, len(runs))
    curves = figures / "curves.svg"
    named = [(" ".join([job.name, *job.differs]), job.run) for job in jobs]
    comparison = Comparison(curves if draw_comparison(named, curves) else None, ablations(runs))
    display.console.print(runs_table(jobs))
    title = Path(sweep).resolve().name if sweep else ", ".join(job.name for job in jobs)
    return write_page(page, sweep_page(title, jobs, comparison, page.parent))


def main() -> None:
    command("report", report)


if __name__ == "__main__":
    main()
