"""The folder of a run: who names it, and that no two live runs share it."""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from alexnet_dist.errors import UserError, tell

WORD = "stopped"


def new_run_name(model: str, environment: Mapping[str, str] = os.environ) -> str:
    """A name under runs/ for a run that was given none.

    The processes that one torchrun or one SLURM job starts, and starts again after a fault, find the same name; every
    other start gets a new one.
    """
    job = environment.get("SLURM_JOB_ID")
    if job:
        return f"{model}-slurm-{job}"
    torchrun = environment.get("TORCHELASTIC_RUN_ID", "none")
    if torchrun != "none":
        return f"{model}-{torchrun[:8]}"
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{model}"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder and hold it for this process until the end; the lock goes with the process, whatever ends it.

    Raises:
        UserError: a live run holds it, or it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"the run folder {folder} cannot be written ({error.strerror}): set run.dir to another") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"the run folder {folder} is in use by a live run: stop that run or set run.dir to another") from None
        except OSError as error:
            raise UserError(
                f"the run folder {folder} cannot be locked ({error.strerror}): its file system takes no locks (Lustre wants the "
                "mount option flock); set run.dir to another"
            ) from None
        yield


def leave_word(folder: Path, word: str | None) -> None:
    """Write `word` into the folder's file `stopped`, where a batch script finds it; None takes the file away.

    `done`: the run is complete. `signal`: it ended because of a signal, has saved what it had done, and can go on. No
    file: it failed, or lives, or the disk took none.
    """
    if word is None:
        (folder / WORD).unlink(missing_ok=True)
        return
    try:
        (folder / WORD).write_text(word + "\n")
    except OSError as error:
        (folder / WORD).unlink(missing_ok=True)
        tell(f"warning: {folder / WORD} cannot be written ({error.strerror}), so a batch script will not find '{word}' there")


def read_word(folder: Path) -> str | None:
    """The word that the last run left, or None."""
    return (folder / WORD).read_text().strip() if (folder / WORD).is_file() else None
