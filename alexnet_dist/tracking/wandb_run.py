"""The run in Weights & Biases: one run a job, and rank 0 alone talks to it."""

import netrc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlparse

import wandb

from alexnet_dist.settings import TrackingSettings


class WandbRun:
    """A W&B run in the run folder: online where somebody is logged in, else offline.

    `run_id` is the id of the run to go on with, or None for a new one. Where the server cannot be reached the run is offline too,
    and `unreachable` says why. W&B's own process may end before the run does: SLURM sends SIGTERM to every process of a job,
    and W&B heeds it. From then on nothing more is recorded here, and `lost` is true.
    """

    def __init__(self, settings: TrackingSettings, config: dict[str, Any], folder: Path, run_id: str | None) -> None:
        start = partial(
            wandb.init,
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            name=settings.name or folder.name,
            tags=settings.tags or None,
            job_type="train",
            id=run_id,
            resume="allow" if run_id else None,
            dir=folder,
            config=config,
            settings=wandb.Settings(silent=True, console="off", init_timeout=60),
        )
        self.unreachable = ""
        self.lost = False
        try:
            self._run = start(mode=_mode())
        except wandb.errors.CommError as error:
            self.unreachable = str(error)
            self._run = start(mode="offline")
        for kind in ("train", "val"):
            self._run.define_metric(f"{kind}/*", step_metric="step")
        self._run.define_metric("train/loss", step_metric="step", summary="min")
        self._run.define_metric("val/top1_error", step_metric="step", summary="min")
        self._run.define_metric("val/top5_error", step_metric="step", summary="min")

    @property
    def id(self) -> str:
        return self._run.id

    @property
    def offline_folder(self) -> Path | None:
        """Where an offline run lies, for `wandb sync`; None for an online one."""
        return Path(self._run.dir).parent if self._run.settings.mode == "offline" else None

    def log(self, record: dict[str, Any]) -> None:
        """A record of metrics.jsonl; its figures appear as train/... or val/... against the step."""
        kind = record["kind"]
        if kind == "val" and record["views"] != 1:
            kind = f"val_{record['views']}_views"
        figures = {f"{kind}/{key}": value for key, value in record.items() if key not in ("kind", "step", "epoch")}
        with self._unless_lost():
            self._run.log({**figures, "step": record["step"], "epoch": record["epoch"]})

    def finish(self, failed: bool) -> None:
        with self._unless_lost():
            self._run.finish(exit_code=1 if failed else 0)

    @contextmanager
    def _unless_lost(self) -> Iterator[None]:
        try:
            yield
        except ConnectionError:
            self.lost = True


def _mode() -> Literal["online", "offline", "disabled", "shared"]:
    """WANDB_MODE where it is set; else online with a login (WANDB_API_KEY or a netrc entry), offline without."""
    if mode := os.environ.get("WANDB_MODE"):
        return cast(Literal["online", "offline", "disabled", "shared"], mode)
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return "offline"
    return "online" if host and logins.authenticators(host) else "offline"
