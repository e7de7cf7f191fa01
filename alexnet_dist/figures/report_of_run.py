"""The report of one run: its figures, its page and the row of a table that says how it stands."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table as RichTable

from alexnet_dist.errors import UserError
from alexnet_dist.figures import words
from alexnet_dist.figures.draw import draw_run
from alexnet_dist.figures.page import run_page, state_of, tiles
from alexnet_dist.figures.run_files import RunFiles, read_run
from alexnet_dist.figures.seen import Looking
from alexnet_dist.figures.sweep import Job, published_of
from alexnet_dist.tracking.display import Display

PAGE = "report.html"


def report_of_run(
    folder: Path,
    looking: Looking,
    display: Display,
    output: str | None = None,
    layers: dict[str, dict[str, float]] | None = None,
) -> Path:
    """Draw a run's figures and make its page; the page's path. Raises UserError where that cannot be done."""
    run = read_run(folder)
    drawn = draw_run(run, looking, display.show, layers)
    if drawn.missing:
        display.say(f"without new predictions and neighbours: {drawn.missing}")
    return write_page(Path(output or folder / PAGE), run_page(run, drawn, published_of(run)))


def run_table(run: RunFiles) -> RichTable:
    """The figures of a run that matter, one a line."""
    shown = RichTable(title=f"{run.name}, {state_of(run)}", title_justify="left", box=box.SIMPLE, show_header=False)
    shown.add_column(justify="right", no_wrap=True)
    shown.add_column()
    for tile in tiles(run):
        shown.add_row(tile.figure, f"{tile.what} ({tile.more})" if tile.more else tile.what)
    return shown


def runs_table(jobs: Sequence[Job]) -> RichTable:
    """A row for each run with the words that set it apart."""
    shown = RichTable(box=box.SIMPLE, pad_edge=False)
    shown.add_column("run", overflow="fold")
    shown.add_column("what differs", overflow="fold")
    for heading in ("top-1", "top-5", "epochs", "images/s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("state", overflow="fold")
    for job in jobs:
        run, last = job.run, job.run.final()
        shown.add_row(
            job.name,
            "\n".join(job.differs),
            words.percent(last["top1_error"]) if last else "",
            words.percent(last["top5_error"]) if last else "",
            f"{run.records[-1]['epoch']:.3g}" if run.records else "",
            f"{run.typical('images_per_second') or 0:,.0f}",
            state_of(run),
        )
    return shown


def write_page(page: Path, text: str) -> Path:
    """Write the page whole or not at all. Raises UserError where it cannot be."""
    partial = page.with_name(f".{page.name}.partial")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, "utf-8")
        os.replace(partial, page)
    except OSError as error:
        raise UserError(f"{page} cannot be written ({error.strerror}): set output to a page elsewhere") from None
    return page
