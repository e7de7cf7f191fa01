"""Files that name classes, a line each."""

import re
from pathlib import Path

from alexnet_dist.data.packed import ClassName
from alexnet_dist.errors import UserError


def read_class_names(path: str, setting: str = "classes=") -> list[ClassName]:
    """The classes of a text file with a class a line: a name, or a WordNet id and words. `setting`: what named it.

    Raises UserError: it cannot be read, is empty, or names a class twice.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{setting}{path} cannot be read ({error}): name a text file with a class a line") from None
    if not lines:
        raise UserError(f"{setting}{path} is empty: name a text file with a class a line")
    parted = [re.fullmatch(r"(n\d{8})\s+(.*)", line) for line in lines]
    entries = [ClassName(*match.groups()) if match else ClassName(line, line) for match, line in zip(parted, lines, strict=True)]
    ids = [entry.id for entry in entries]
    if len(set(ids)) < len(ids):
        raise UserError(f"{setting}{path} names {next(name for name in ids if ids.count(name) > 1)} twice")
    return entries
