"""Files that a command makes: whole or absent, and never in place of one that was there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from alexnet_dist.errors import RunFailed, UserError


def check_new(setting: str, wanted: str, *endings: str) -> Path:
    """The path that a setting names.

    Raises:
        UserError: it has none of `endings` (where any are given), is there already, or lies in no folder that can be written.
    """
    path = Path(wanted)
    if endings and path.suffix not in endings:
        raise UserError(f"{setting}={wanted} must end in {' or '.join(endings)}")
    if os.path.lexists(path):
        raise UserError(f"{setting}={wanted} is there already: name another, or move it away")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"{setting}={wanted} cannot be written: {path.parent} is no folder that this user may write to")
    return path


def write_new(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Make the file with what `write` writes.

    Raises:
        UserError: it has come to be there meanwhile. RunFailed: it cannot be written (a full disk); nothing of it is left.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
        publish_new(partial, path)
    except OSError as error:
        raise RunFailed(f"{path} could not be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def publish_new(partial: Path, path: Path) -> None:
    """Give a finished file its name. Raises UserError where the name is taken."""
    if os.path.lexists(path):
        raise UserError(f"{path} has come to be there meanwhile and is left alone: name another file")
    os.rename(partial, path)
