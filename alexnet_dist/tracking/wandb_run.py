"""The run in Weights & Biases: one run a job, and rank 0 alone talks to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import wandb

from alexnet_dist.errors import RunFailed, UserError, reason_of
from alexnet_dist.fields import flat
from alexnet_dist.launching.wandb_account import (
    Mode,
    check_variables,
    files_folder,
    init_seconds,
    refusals_as_sentences,
    unless_set,
    wanted_mode,
)
from alexnet_dist.settings import TrackingSettings

# Names, what they stand against, and what the run's summary keeps of them beside the last value.
_METRICS = (
    ("train/*", "step", None),
    ("val/*", "epoch", None),
    ("tower*", "step", None),
    ("train/loss", "step", "min,last"),
    ("train/images_per_second", "step", "min,max,last"),
    ("train/peak_memory_bytes", "step", "max"),
    ("val/loss", "epoch", "min,last"),
    ("val/top1_error", "epoch", "min,last"),
    ("val/top5_error", "epoch", "min,last"),
)


class WandbRun:
    """A W&B run: online where somebody is logged in, else offline.

    Its files are in the folder `files`; by default in WANDB_DIR or, where that is not set, the run folder.
    `run_id` is the id of the run to go on with, or None for a new one. Where the server cannot be reached the run is offline too,
    and `unreachable` says why. W&B's own process may end before the run does: SLURM sends SIGTERM to every process of a job,
    and W&B heeds it. From then on nothing more is recorded here, and `lost` is true. At the end W&B has `finish_seconds` to
    send what is left, over a network that may be gone; 0: all the time it needs.

    Figures appear as train/... against the step and val/... against the epoch; those of a single tower as tower0/..., tower1/...

    Raises:
        UserError: it is to be online and nobody is logged in, or W&B does not take what it was given.
        RunFailed: W&B's own process does not start.
    """

    @refusals_as_sentences()
    def __init__(
        self,
        settings: TrackingSettings,
        config: dict[str, Any],
        folder: Path,
        run_id: str | None,
        mode: Mode | None = None,
        finish_seconds: float = 0,
        files: Path | None = None,
    ) -> None:
        if files is None:
            check_variables()
        start = partial(
            wandb.init,
            project=settings.project or unless_set("WANDB_PROJECT", "alexnet_dist"),
            entity=settings.entity,
            group=settings.group,
            name=settings.name or unless_set("WANDB_NAME", folder.name),
            tags=settings.tags or None,
            job_type=settings.job_type or unless_set("WANDB_JOB_TYPE", "train"),
            id=run_id,
            resume="allow" if run_id else None,
            dir=files or files_folder(folder),
            config=config,
            settings=wandb.Settings(silent=True, console="off", init_timeout=init_seconds(), finish_timeout=finish_seconds),
        )
        self.unreachable = ""
        self.lost = False
        try:
            self._run = start(mode=mode or wanted_mode())
        except wandb.errors.CommError as error:
            self.unreachable = reason_of(error)
            wandb.teardown()  # W&B's process holds the id of the run that it could not begin
            self._run = start(mode="offline")
        except wandb.errors.UsageError as error:
            raise UserError(f"W&B: {error}") from None
        except wandb.errors.Error as error:
            raise RunFailed(f"W&B could not be started ({reason_of(error)}): try again") from None
        for name, against, summary in _METRICS:
            self._run.define_metric(name, step_metric=against, summary=summary)

    @property
    def id(self) -> str:
        return self._run.id

    @property
    def offline_folder(self) -> Path | None:
        """Where an offline run lies, for `wandb sync`; None for an online one."""
        return Path(self._run.dir).parent if self._run.settings.mode == "offline" else None

    def log(self, record: dict[str, Any]) -> None:
        """A record of metrics.jsonl. Records of one step make one row of W&B's history, whose own step is the training's."""
        figures = {**named_figures(record), "step": record["step"], "epoch": record["epoch"]}
        if "time" in record:
            figures["_timestamp"] = record["time"]
        with self._unless_lost():
            self._run.log(figures, step=record["step"])

    def log_media(self, media: dict[str, Any], step: int) -> None:
        """Images and tables, in the row of a step."""
        with self._unless_lost():
            self._run.log({**media, "step": step}, step=step)

    def log_artifact(self, artifact: wandb.Artifact, aliases: list[str]) -> None:
        with self._unless_lost():
            self._run.log_artifact(artifact, aliases=aliases)

    def finish(self, failed: bool) -> None:
        with self._unless_lost():
            self._run.finish(exit_code=1 if failed else 0)

    @contextmanager
    def _unless_lost(self) -> Iterator[None]:
        try:
            yield
        except ConnectionError:
            self.lost = True


def named_figures(record: dict[str, Any]) -> dict[str, Any]:
    """The figures of a record by W&B's names for them.

    A list holds one figure a tower: `towers: {crossing_exposed_seconds: [a, b]}` gives tower0/crossing_exposed_seconds, and
    `layers: {conv1: {weight: [a, b]}}` gives tower0/conv1/weight.
    """
    kind = record["kind"]
    if kind == "val" and record["views"] != 1:
        kind = f"val_{record['views']}_views"
    figures: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            for name, towers in flat(value).items():
                own = {f"tower{tower}/{name.replace('.', '/')}": figure for tower, figure in enumerate(towers)}
                figures |= {name: figure for name, figure in own.items() if figure is not None}
        elif key not in ("kind", "step", "epoch", "time") and value is not None:
            figures[f"{kind}/{key}"] = value
    return figures
