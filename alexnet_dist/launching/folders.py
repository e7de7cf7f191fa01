"""Where libraries keep their files: in the user's home and the temporary folder or, where those will not do, elsewhere."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_dist.errors import UserError, tell
from alexnet_dist.files import folder_of_this_user
from alexnet_dist.launching.outer import rank_of_process

# Of the 107 characters of a socket's path libraries want about fifty for folders and names of their own.
LONGEST = 50

# How a folder begins that a command's processes have as their temporary one.
SCRATCH = "alexnet-"

# What names a library's folder, and where it is by default in the user's home.
_IN_HOME = {"XDG_CACHE_HOME": ".cache", "XDG_DATA_HOME": ".local/share", "MPLCONFIGDIR": ".config/matplotlib"}


def settle_folders() -> None:
    """Before libraries look: name another place where this user has no home or may not write there, and where TMPDIR is too long
    for a socket. It is said in a line.

    Raises:
        UserError: there is no other place.
    """
    told = []
    if len(tempfile.gettempdir()) > LONGEST:
        problem = f"TMPDIR={tempfile.gettempdir()} is too long for the path of a socket"
        if not os.access("/tmp", os.W_OK):
            raise UserError(f"{problem}: name a folder of {LONGEST} characters or fewer")
        told.append(f"{problem}: /tmp is used")
        os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"
    try:
        home = Path.home()
        missing = {name: usual for name, usual in _IN_HOME.items() if name not in os.environ and not _writable(home / usual)}
    except RuntimeError:  # a user without HOME and without an entry in passwd
        missing = {"HOME": ""}
    if missing:
        try:
            elsewhere = folder_of_this_user()
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be made for what libraries keep ({error.strerror}): set HOME to a folder that "
                "this user may write to"
            ) from None
        os.environ.update({name: str(elsewhere / usual) for name, usual in missing.items()})
        told.append(f"this user {'has no home' if 'HOME' in missing else 'may not write at home'}: caches are in {elsewhere}")
    if rank_of_process() == 0:
        for line in told:
            tell(line)


@contextmanager
def own_temporary_folder() -> Iterator[None]:
    """What libraries leave in this process's temporary folder (W&B leaves five folders) goes with it, unless the launcher has
    seen to that already."""
    usual = tempfile.gettempdir()
    if Path(usual).name.startswith(SCRATCH):
        yield
        return
    with tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        try:
            yield
        finally:
            os.environ["TMPDIR"] = tempfile.tempdir = usual


def _writable(folder: Path) -> bool:
    try:
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except PermissionError:  # it may not even be entered
        return False
    return os.access(there, os.W_OK)
