"""What a person sees of a run: a live bar in a terminal, plain lines elsewhere. Rank 0 alone shows it."""

import time
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

_SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Progress of a run or a part of it.

    In a terminal one bar moves and what is said stands above it; in a log file a line is printed every few seconds at most. Quiet
    on ranks other than 0, and where the log file's disk takes no more.
    """

    def __init__(self, rank: int) -> None:
        self.console = Console(stderr=False, highlight=False, quiet=rank != 0, soft_wrap=True)
        self._live = self.console.is_terminal and rank == 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            _Figures(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self._live,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """One line that stays."""
        with suppress(OSError):
            self.console.print(text, markup=False)

    def show(self, what: str, done: int, total: int, figures: str = "") -> None:
        """How far `what` is, with its latest figures."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, figures="")
        for name, task in self._tasks.items():
            self._progress.update(task, visible=name == what)
        self._progress.update(self._tasks[what], completed=done, total=total, figures=figures)
        now = time.monotonic()
        if not self._live and (now - self._last_line >= _SECONDS_BETWEEN_LINES):
            self._last_line = now
            self.say(f"{what} {done}/{total}  {figures}".rstrip())

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["figures"])


def training_figures(record: dict[str, Any]) -> str:
    """The figures of a `train` record in a line: loss, images/s, the crossings' share of the step's time."""
    share = record["crossing_exposed_seconds"] / record["step_seconds"]
    return (
        f"epoch {record['epoch']:.2f}  loss {record['loss']:.4f}  {record['images_per_second']:.0f} images/s  "
        f"crossings {share:.1%} of the time"
    )


def validation_figures(record: dict[str, Any]) -> str:
    """The figures of a `val` record in a line."""
    views = "ten views" if record["views"] == 10 else "centre view"
    return (
        f"validation after epoch {record['epoch']:g}, step {record['step']}: top-1 error {record['top1_error']:.2%}, "
        f"top-5 {record['top5_error']:.2%}, loss {record['loss']:.4f} ({record['images']} images, {views})"
    )
