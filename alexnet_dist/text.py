"""Numbers, spans of time, names and tables as a person reads them."""

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text


def percent(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{100 * value:.{digits}f} %"


def points(errors: Sequence[float | None] | None, sign: str = "") -> str:
    """Errors, or differences of errors, in percent: 40.70 / 18.20; with sign "+" +1.40 / -1.20. None is left out."""
    return " / ".join(f"{100 * error:{sign}.2f}" for error in errors or () if error is not None)


def counted(count: int, what: str) -> str:
    """'1 tower', '2 processes'."""
    return f"{count} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")


def one_cell(text: str) -> str:
    """For a table with a line a row and tabs between its columns."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def byte_size(value: float | None) -> str:
    if value is None:
        return ""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":  # which is rounded to 999
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"


def flop_rate(value: float) -> str:
    for size, unit in ((1e15, "PFLOP/s"), (1e12, "TFLOP/s")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e9:.3g} GFLOP/s"


def duration(seconds: float) -> str:
    """As in 3 d 4 h, 2 h 05 min, 1 min 20 s, 2.31 s, 45 ms."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.3g} s"


def moment(seconds: float) -> str:
    """Local date and time of seconds since 1970."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def views_of(record: Mapping[str, Any]) -> str:
    """How the images of a `val` record were seen."""
    return "ten views" if record["views"] == 10 else "centre view"


def printable(name: str) -> str:
    """A file's name, whose bytes need not be UTF-8, as text that can be written anywhere."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def hydra_value(text: str) -> str:
    """A text as the value of a Hydra override: in quotes where Hydra would read something else, as a number or a list."""
    from hydra.core.override_parser.overrides_parser import OverridesParser  # here: processes that pack images need no Hydra
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"value={text}")
    except HydraException:
        pass
    else:
        if not override.is_sweep_override() and override.value() == text:
            return text
    return QuotedString(text, Quote.double).with_quotes()


def as_word(name: str, value: object) -> str:
    """An override as it is written on a shell's command line."""
    return shlex.quote(f"{name}={hydra_value(str(value))}")


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str]) -> Table:
    """A table for a terminal. The columns headed by `numbers` stand on the right and are never folded."""
    shown = Table(title=Text(title) if title else None, box=box.SIMPLE)
    for heading in headings:
        number = heading in numbers
        shown.add_column(
            heading, justify="right" if number else "left", no_wrap=number, overflow="ellipsis" if number else "fold"
        )
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown
