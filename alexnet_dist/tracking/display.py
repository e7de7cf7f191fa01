"""What a person sees of a run: a live display in a terminal, plain lines elsewhere. Rank 0 alone shows it."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from alexnet_dist.text import duration, flop_rate, views_of

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_OF_A_PACE = 900.0  # the time left follows the pace of the last quarter of an hour
_PACE_AFTER = 3.0  # seconds
_SEPARATOR = " · "


class _Bar(Progress):
    """A bar with the latest figures below it."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.figures, style="dim")


class Display:
    """Progress of a run or a part of it.

    In a terminal a bar moves with the latest figures below it, and what is said stands above; warnings are yellow. In a log
    file a line is printed for what begins, and every few seconds at most. Quiet on ranks other than 0. `clock` gives seconds.
    """

    def __init__(self, rank: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = Console(stderr=False, highlight=False, quiet=rank != 0, soft_wrap=True)
        self._bar = _Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            expand=True,
            transient=True,
            get_time=clock,
            speed_estimate_period=_SECONDS_OF_A_PACE,
            disable=rank != 0 or not self.console.is_terminal,
        )
        self._clock = clock
        self._tasks: dict[str, TaskID] = {}
        self._last_line = -_SECONDS_BETWEEN_LINES

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, style="yellow" if text.startswith("warning: ") else None)

    def show(self, what: str, done: int, total: int, figures: str = "") -> None:
        """How far `what` is, with its latest figures and, once there is a pace, the time left."""
        if new := what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total, left="")
        task = self._bar.tasks[self._tasks[what]]
        if done < task.completed:  # begun anew, as each validation is
            self._bar.reset(task.id, total=total)
        self._bar.update(task.id, completed=done, total=total)
        seconds = task.time_remaining if (task.elapsed or 0) >= _PACE_AFTER else None
        left = f"{duration(seconds)} left" if seconds else ""
        for other in self._bar.tasks:
            self._bar.update(other.id, visible=other is task and done < total, left=left)
        self._bar.figures = figures.replace("  ", _SEPARATOR) or self._bar.figures
        if self._bar.disable and (new or self._clock() - self._last_line >= _SECONDS_BETWEEN_LINES):
            self._last_line = self._clock()
            self.say("  ".join(part for part in (f"{what} {done}/{total}", figures, left) if part))

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def training_figures(record: dict[str, Any], last_validation: dict[str, Any] | None) -> str:
    """The figures of a `train` record in a line: epoch, loss, error, images/s, FLOP/s, the crossings' share of the step's time,
    memory; and the top-1 error of the last validation, if there was one."""
    share = record["crossing_exposed_seconds"] / record["step_seconds"]
    peak = record["peak_share"]
    parts = [f"epoch {record['epoch']:.2f}", f"loss {record['loss']:.4f}", f"error {record['top1_error']:.2%}"]
    if last_validation:
        parts.append(f"validation error {last_validation['top1_error']:.2%}")
    parts += [
        f"{record['images_per_second']:.0f} images/s",
        flop_rate(record["flops_per_second"]) + ("" if peak is None else f" ({peak:.0%} of the peak)"),
        f"crossings {share:.1%} of the time",
        f"{record['peak_memory_bytes'] / 1e9:.2f} GB",
    ]
    return "  ".join(parts)


def validation_figures(record: dict[str, Any]) -> str:
    """The figures of a `val` record in a line."""
    return (
        f"validation after epoch {record['epoch']:g}, step {record['step']}: top-1 error {record['top1_error']:.2%}, "
        f"top-5 {record['top5_error']:.2%}, loss {record['loss']:.4f} ({record['images']} images, {views_of(record)}); "
        f"weights {record['weights']}"
    )
