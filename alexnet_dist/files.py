"""Files that a command makes: whole or absent. And folders that one process holds, or makes as the first."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from alexnet_dist.errors import RunFailed, UserError

LOCK = ".lock"


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


@contextmanager
def whole_file(
    path: Path, publish: Callable[[Path, Path], object] = os.replace, to_disk: bool = False
) -> Iterator[BinaryIO]:
    """A file to write to, which takes the path's name at the end: readers find what was there before, or all of the new one.
    With `to_disk` that holds after a power cut too.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            if to_disk:
                file.flush()
                os.fsync(file.fileno())
        publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_new(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Make the file with what `write` writes.

    Raises:
        UserError: it has come to be there meanwhile. RunFailed: it cannot be written (a full disk); nothing of it is left.
    """
    try:
        with whole_file(path, publish_new) as file:
            write(file)
    except OSError as error:
        raise RunFailed(f"{path} could not be written ({error.strerror or error})") from error


def publish_new(partial: Path, path: Path) -> None:
    """Give a finished file its name. Raises UserError where the name is taken."""
    if os.path.lexists(path):
        raise UserError(f"{path} has come to be there meanwhile and is left alone: name another file")
    os.rename(partial, path)


def sha256_of(path: Path) -> str:
    """The sum of a file's bytes, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_of_this_user() -> Path:
    """A folder in the temporary one that is this user's alone, since what is kept there is run. Raises OSError."""
    folder = Path(tempfile.gettempdir()) / f"alexnet_dist-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise PermissionError(1, "another user may write to it", str(folder))
    return folder


def numbered(wanted: Path) -> Iterator[Path]:
    """`wanted`, and then with -2, -3 and so on behind its name."""
    yield wanted
    yield from (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))


def make_new_folder(wanted: Path) -> Path:
    """Make a folder that no other process has made: the first of `numbered` that is not there. Raises OSError."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for folder in numbered(wanted):
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


def remove_folder(folder: Path, *files: str) -> None:
    """Remove a folder that holds none but these files, and `runs` where it was the only one there."""
    if folder.is_dir() and {entry.name for entry in folder.iterdir()} <= set(files):
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()
        if folder.parent == Path("runs"):
            with suppress(OSError):
                folder.parent.rmdir()


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder."""
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there, and hold it until the end; the lock goes with the process, whatever ends it.

    Raises:
        BlockingIOError: another process holds it. OSError: it cannot be made or written, or its file system takes no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
