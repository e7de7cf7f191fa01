"""What this machine says of W&B: its variables, and whether somebody is logged in."""

import netrc
import os
from typing import Literal, cast
from urllib.parse import urlparse

Mode = Literal["online", "offline", "disabled", "shared"]


def init_seconds() -> float:
    """WANDB_INIT_TIMEOUT where it is set; else a minute."""
    return float(os.environ.get("WANDB_INIT_TIMEOUT", "60"))


def wanted_mode() -> Mode:
    """WANDB_MODE where it is set; else online with a login (WANDB_API_KEY or a netrc entry), offline without."""
    if mode := os.environ.get("WANDB_MODE"):
        return cast(Mode, mode)
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return "offline"
    return "online" if host and logins.authenticators(host) else "offline"
