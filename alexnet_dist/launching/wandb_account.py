"""What this machine says of W&B: its variables, and whether somebody is logged in."""

import os
from typing import Literal, cast

import wandb

Mode = Literal["online", "offline", "disabled", "shared"]


def init_seconds() -> float:
    """WANDB_INIT_TIMEOUT where it is set; else a minute."""
    return float(os.environ.get("WANDB_INIT_TIMEOUT", "60"))


def wanted_mode() -> Mode:
    """WANDB_MODE where it is set; else online with a login, as W&B finds one, and offline without."""
    if mode := os.environ.get("WANDB_MODE"):
        return cast(Mode, mode)
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        return "online" if wandb.login(prompt=False, verify=False) else "offline"
    except wandb.errors.AuthenticationError:  # a login that is none, of which WandbRun says so
        return "online"
