"""A page of a run, or of a sweep's runs beside one another: one HTML file that opens anywhere.

python -m alexnet_dist.report run=runs/x
python -m alexnet_dist.report sweep=runs/sweep-2012-09-30_12-00-00
python -m alexnet_dist.report 'run=[runs/x,runs/y]' output=both.html
"""

from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from alexnet_dist.errors import UserError
from alexnet_dist.fields import FilePath, check, strict
from alexnet_dist.figures.examples import ExampleOptions
from alexnet_dist.figures.run_files import folders_of, read_run
from alexnet_dist.figures.run_report import read_layers, report_of_run, run_table
from alexnet_dist.figures.sweep_report import report_of_sweep
from alexnet_dist.launching.commands import command
from alexnet_dist.tracking.display import Display


@dataclass(frozen=True, config=strict, kw_only=True)
class ReportSettings(ExampleOptions):
    """What conf/report.yaml may say."""

    run: FilePath | list[FilePath] | None
    sweep: FilePath | None
    output: FilePath | None
    bench: FilePath | None


def report(config: dict[str, Any]) -> None:
    """Make the page that a composed conf/report.yaml asks for, and print its main table."""
    settings = check(ReportSettings, config)
    if settings.output is not None and Path(settings.output).suffix != ".html":
        raise UserError(f"output={settings.output} must end in .html: the page takes the place of what is there")
    if not isinstance(settings.run, str) and (settings.layer or settings.bench):
        alone = "layer" if settings.layer else "bench"
        raise UserError(f"{alone} is for the page of one run: name that with run=..., or leave {alone} out")
    folders = folders_of(settings.run, settings.sweep)
    layers = read_layers(settings.bench)
    with Display(rank=0) as display:
        if isinstance(settings.run, str):
            page = report_of_run(folders[0], settings, display, settings.output, layers)
            display.console.print(run_table(read_run(folders[0])))
        else:
            if settings.sweep is None and settings.output is None:
                raise UserError("output is not set: name the page of several runs with output=...")
            page = report_of_sweep(folders, settings.sweep, display, settings.output)
        display.say(f"report: {page}")


def main() -> None:
    command("report", report)


if __name__ == "__main__":
    main()
