"""What this machine says of W&B: its variables, and whether somebody is logged in."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from pydantic import ValidationError

from alexnet_dist.errors import UserError

Mode = Literal["online", "offline", "disabled", "shared"]
Value = TypeVar("Value")


def init_seconds() -> float:
    """WANDB_INIT_TIMEOUT where it is set; else a minute. Raises UserError where it is no number."""
    said = os.environ.get("WANDB_INIT_TIMEOUT", "60")
    try:
        return float(said)
    except ValueError:
        raise UserError(f"WANDB_INIT_TIMEOUT={said} is no number of seconds: set it to one, or unset it") from None


def check_variables() -> None:
    """Raises UserError where WANDB_MODE or WANDB_INIT_TIMEOUT says what W&B does not know, or WANDB_DIR cannot be written: W&B
    would write elsewhere and say nothing."""
    said_mode()
    init_seconds()
    if folder := os.environ.get("WANDB_DIR"):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"WANDB_DIR={folder} cannot be made ({error.strerror}): name another folder, or unset it") from None
        if not os.access(folder, os.W_OK):
            raise UserError(f"WANDB_DIR={folder} cannot be written: name another folder, or unset it")


def unless_set(variable: str, default: Value) -> Value | None:
    """The default, or None where a variable of W&B's own says something else, which W&B then reads."""
    return None if os.environ.get(variable) else default


def files_folder(run_dir: Path) -> Path:
    """Where W&B's folder wandb/ is: WANDB_DIR, or the run's folder."""
    return Path(os.environ.get("WANDB_DIR") or run_dir)


@contextmanager
def refusals_as_sentences() -> Iterator[None]:
    """Raises UserError where W&B does not take a value that it was given, by a variable of its own or by an override."""
    try:
        yield
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0])
        raise UserError(
            f"W&B does not take {name}={wrong['input']!r} ({wrong['msg']}): mend WANDB_{name.removeprefix('run_').upper()}, or "
            "what tracking. gives for it"
        ) from None


def said_mode(environment: Mapping[str, str] = os.environ) -> Mode | None:
    """WANDB_MODE, None where it is not set. Raises UserError where it says what W&B does not know."""
    said, known = environment.get("WANDB_MODE"), get_args(Mode)
    mode = {"dryrun": "offline", "run": "online"}.get(said or "", said)  # as W&B called them once, and still takes them
    if mode and mode not in known:
        close = get_close_matches(mode, known, n=1)
        meant = f"did you mean {close[0]}?" if close else f"take one of {', '.join(known)}, or unset it"
        raise UserError(f"WANDB_MODE={mode} is no mode of W&B: {meant}")
    return cast(Mode | None, mode or None)


def wanted_mode() -> Mode:
    """As `said_mode`; where it is not set online with a login, as W&B finds one, and offline without."""
    if mode := said_mode():
        return mode
    import wandb  # not at the top: without W&B nothing of it is loaded

    with refusals_as_sentences():
        wandb.setup(settings=wandb.Settings(silent=True))
    try:
        return "online" if wandb.login(prompt=False, verify=False) else "offline"
    except wandb.errors.AuthenticationError:  # a login that is none, of which WandbRun says so
        return "online"
