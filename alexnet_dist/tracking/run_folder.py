"""The folder of a run: how it gets its name, that no two live runs share it, and what a run leaves in it as its outcome."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alexnet_dist.errors import UserError, tell
from alexnet_dist.files import LOCK, is_locked, locked_folder, make_new_folder, numbered, remove_folder

# `done`: the run is complete and saved. `signal`: it ended because of a signal, has saved what it had done, and can go on.
Outcome = Literal["done", "signal"]
_FILE = "stopped"

TIMELINE = "timeline.json"
BAD_IMAGES = "bad_images.tsv"


def name_run_folder(model: str, job: str | None, overrides: Sequence[str]) -> Path:
    """A folder under runs/ for a run that was given none: that of `job`, which restarts with the same overrides find again, or
    a new one, made here.

    Raises:
        UserError: it cannot be made.
    """
    if job:
        return next(folder for folder in numbered(Path("runs") / f"{model}-{job}") if _may_be_of(folder, list(overrides)))
    wanted = Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{model}"
    try:
        return make_new_folder(wanted)
    except OSError as error:
        raise _unusable(wanted, error) from None


@dataclass(frozen=True)
class RunFolder:
    """A run's folder as rank `rank` of the run sees it: rank 0 alone holds it and writes in it."""

    path: Path
    rank: int = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder is there, and this run's alone until the end; one that is empty when the run is refused is taken away.

        Raises:
            UserError: a live run holds it, or it cannot be made or written.
        """
        if self.rank:
            yield
            return
        with ExitStack() as holding:
            try:
                holding.enter_context(locked_folder(self.path))
            except BlockingIOError:
                raise UserError(
                    f"the run folder {self.path} is in use by a live run: stop it or wait for its end; another run takes another "
                    "run.dir"
                ) from None
            except OSError as error:
                raise _unusable(self.path, error) from None
            try:
                yield
            except (UserError, KeyboardInterrupt):
                remove_folder(self.path, LOCK)
                raise

    def remove_if_bare(self) -> None:
        """Take the folder away where no run holds it or has left anything in it."""
        if self.path.is_dir():
            with suppress(OSError), locked_folder(self.path):
                remove_folder(self.path, LOCK)

    def take(self, anew: bool) -> None:
        """This start goes on with the folder's run: the outcome of an earlier start is not its own. One that begins `anew` takes
        away what a run that ended before its first checkpoint has left."""
        self.leave(None)
        if anew and not self.rank:
            for name in (TIMELINE, BAD_IMAGES):
                (self.path / name).unlink(missing_ok=True)

    def leave(self, outcome: Outcome | None) -> None:
        """Write the outcome into the file `stopped`, where a batch script finds it; None (it lives, or failed) takes it away."""
        if self.rank:
            return
        file = self.path / _FILE
        file.unlink(missing_ok=True)
        if outcome:
            try:
                file.write_text(outcome + "\n")
            except OSError as error:
                file.unlink(missing_ok=True)
                tell(f"warning: {file} cannot be written ({error.strerror}), so a batch script will not find '{outcome}' there")


def _may_be_of(folder: Path, overrides: list[str]) -> bool:
    """Whether a folder is free, or its run has these overrides. Raises UserError as `read_config`."""
    config = read_config(folder)
    return not is_locked(folder) if config is None else config["run"].get("overrides") in (None, overrides)


def read_config(folder: Path) -> dict[str, Any] | None:
    """The configuration of the run in a folder; None where there is none.

    Raises:
        UserError: its config.json cannot be read, or is not a run's.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{file} cannot be read ({reason}): restore it, or name another folder") from None
    if not isinstance(config, dict) or not isinstance(config.get("run"), dict):
        raise UserError(f"{file} is not a run's: restore it, or name another folder")
    return config


def read_outcome(folder: Path) -> str | None:
    """The outcome that the last run left, or None."""
    return (folder / _FILE).read_text().strip() if (folder / _FILE).is_file() else None


def _unusable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the run folder {folder} cannot be made, written or locked ({error.strerror}): set run.dir to another "
        "(Lustre takes locks where it is mounted with flock)"
    )
