"""What a person sees of a run: a live display in a terminal, plain lines elsewhere. Rank 0 alone shows it."""

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

_SECONDS_BETWEEN_LINES = 5.0
_SEPARATOR = " · "


class Display:
    """Progress of a run or a part of it.

    In a terminal a bar moves with the latest figures below it, and what is said stands above; warnings are yellow. In a log
    file a line is printed every few seconds at most. Quiet on ranks other than 0.
    """

    def __init__(self, rank: int) -> None:
        self.console = Console(stderr=False, highlight=False, quiet=rank != 0, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            expand=True,
            auto_refresh=False,
        )
        self._figures = Text(style="dim")
        self._live: Live | None = None
        if self.console.is_terminal and rank == 0:
            shown = Group(self._progress, self._figures)
            self._live = Live(shown, console=self.console, refresh_per_second=8, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, style="yellow" if text.startswith("warning: ") else None)

    def show(self, what: str, done: int, total: int, figures: str = "") -> None:
        """How far `what` is, with its latest figures and the time left at the pace so far."""
        now = time.monotonic()
        begun, first = self._begun.setdefault(what, (now, done))
        if done < first:  # begun anew, as each validation is
            begun, first = self._begun[what] = now, done
        left = _time_left(now - begun, done - first, total - done)
        if self._live:
            self._show_live(what, done, total, figures, left)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.say("  ".join(part for part in (f"{what} {done}/{total}", figures, left) if part))

    def _show_live(self, what: str, done: int, total: int, figures: str, left: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, left="")
        for name, task in self._tasks.items():
            self._progress.update(task, visible=name == what and done < total)
        self._progress.update(self._tasks[what], completed=done, total=total, left=left)
        if figures:
            self._figures.plain = figures.replace("  ", _SEPARATOR)

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()


def training_figures(record: dict[str, Any], last_validation: dict[str, Any] | None) -> str:
    """The figures of a `train` record in a line: epoch, loss, error, images/s, the crossings' share of the step's time, memory;
    and the top-1 error of the last validation, if there was one."""
    share = record["crossing_exposed_seconds"] / record["step_seconds"]
    parts = [f"epoch {record['epoch']:.2f}", f"loss {record['loss']:.4f}"]
    if "top1_error" in record:
        parts.append(f"error {record['top1_error']:.2%}")
    if last_validation:
        parts.append(f"validation error {last_validation['top1_error']:.2%}")
    parts += [
        f"{record['images_per_second']:.0f} images/s",
        f"crossings {share:.1%} of the time",
        f"{record['peak_memory_bytes'] / 1e9:.2f} GB",
    ]
    return "  ".join(parts)


def validation_figures(record: dict[str, Any]) -> str:
    """The figures of a `val` record in a line."""
    views = "ten views" if record["views"] == 10 else "centre view"
    return (
        f"validation after epoch {record['epoch']:g}, step {record['step']}: top-1 error {record['top1_error']:.2%}, "
        f"top-5 {record['top5_error']:.2%}, loss {record['loss']:.4f} ({record['images']} images, {views})"
    )


def _time_left(seconds: float, done: int, to_do: int) -> str:
    """At the pace of `done` pieces in so many seconds; empty while there is no pace yet, and at the end."""
    return f"{duration(seconds / done * to_do)} left" if done > 0 and to_do > 0 else ""


def duration(seconds: float | None) -> str:
    """As in 3 d 4 h, 2 h 05 min, 1 min 20 s, 12 s; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
