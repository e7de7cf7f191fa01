"""The record of a run: what rank 0 shows, writes to metrics.jsonl and tells W&B. Other ranks record nothing."""

import json
import shlex
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from alexnet_dist.errors import RunFailed, Stopped
from alexnet_dist.files import whole_file
from alexnet_dist.settings import TrackingSettings
from alexnet_dist.text import as_word
from alexnet_dist.tracking import starts
from alexnet_dist.tracking.display import Display, training_figures, validation_figures
from alexnet_dist.tracking.metrics import MetricsFile
from alexnet_dist.tracking.run_folder import TIMELINE, RunFolder

if TYPE_CHECKING:
    from alexnet_dist.tracking.wandb_run import WandbRun


_FINISH_SECONDS = 120.0  # for W&B, while the run's other processes wait


class Record:
    """Takes the run's figures, one dictionary each time; `kind` is `train`, `activity` or `val`.

    `config` is the configuration that trains the run. `wandb` is the run in W&B, where there is one. Wherever a figure is a list,
    it has an entry for each tower.
    """

    def __init__(self, folder: RunFolder, settings: TrackingSettings, config: dict[str, Any], display: Display) -> None:
        self.folder = folder.path
        self._folder = folder
        self.display = display
        self._settings = settings
        self._config = config
        self._metrics: MetricsFile | None = None
        self.wandb: WandbRun | None = None
        self._step = 0
        self._validated: dict[str, Any] | None = None
        self._ended = False

    def open(self, step: int, metrics_bytes: int, device: torch.device, processes: int, overrides: Sequence[str]) -> None:
        """Begin at `step`, or go on there behind the first `metrics_bytes` of metrics.jsonl."""
        if self._folder.rank:
            return
        self._step = step
        self._write_file("config.json", self._config)
        self._metrics = MetricsFile(self._folder.path / "metrics.jsonl")
        if self._metrics.size < metrics_bytes:
            self.display.say("warning: metrics.jsonl is shorter than it was at the checkpoint: lines of steps before are missing")
        self._metrics.rewind(metrics_bytes)
        # A restart goes on with the same run in W&B, even where there was no checkpoint yet.
        before = reversed(starts.read_starts(self._folder.path))
        wandb_id = next((start["wandb_id"] for start in before if start["wandb_id"]), None)
        if self._settings.kind == "wandb":
            from alexnet_dist.tracking.wandb_run import WandbRun  # not at the top: without W&B nothing of it is loaded

            seconds = _FINISH_SECONDS * (10 if self._settings.artifacts else 1)
            try:
                self.wandb = WandbRun(self._settings, self._config, self._folder.path, wandb_id, finish_seconds=seconds)
            except RunFailed as error:
                self.display.say(f"warning: {error} later, with alexnet-dist track {as_word('run', self._folder.path)}")
            else:
                wandb_id = self.wandb.id
                if self.wandb.unreachable:
                    self.display.say(f"W&B cannot be reached ({self.wandb.unreachable}): the run is recorded offline")
        self._note(starts.note_start, device, processes, overrides, wandb_id)

    def position(self) -> dict[str, Any]:
        """What a checkpoint keeps of the record: `metrics_bytes` and `wandb_id`."""
        return {
            "metrics_bytes": self._metrics.size if self._metrics else 0,
            "wandb_id": self.wandb.id if self.wandb else None,
        }

    def training(self, record: dict[str, Any], total_steps: int) -> None:
        """The figures of a training step."""
        self.display.show("training", record["step"], total_steps, training_figures(record, self._validated))
        self.write(record)

    def timeline(self, told: dict[str, Any]) -> None:
        """When the parts of a step began and ended; it has a file of its own."""
        if self._metrics:
            self._write_file(TIMELINE, told, indent=None)

    def validation(self, record: dict[str, Any]) -> None:
        """The figures of a validation."""
        self._validated = record
        self.display.say(validation_figures(record))
        self.write(record)

    def __enter__(self) -> "Record":
        return self

    def note_end(self, how: str) -> None:
        """Note in starts.jsonl how the run ended, once."""
        if self._metrics and not self._ended:
            self._ended = True
            self._note(starts.note_end, how)

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, *__: object) -> None:
        """Finish both records, and say where an offline W&B run waits to be uploaded."""
        self.note_end("done" if error is None else str(error) if isinstance(error, Stopped) else f"failed: {error}")
        if self._metrics and (problem := self._metrics.close()):
            self.display.say(f"warning: metrics.jsonl lacks its last lines, which could not be written ({problem})")
        if self.wandb:
            folder = self.wandb.offline_folder
            self.wandb.finish(failed=not (error is None or isinstance(error, Stopped)))
            if self.wandb.lost:
                self.display.say("W&B's process ended before the run: metrics.jsonl holds what it has not recorded")
            elif folder:
                self.display.say(f"W&B: recorded offline; upload it with: wandb sync {shlex.quote(str(folder))}")

    def _write_file(self, name: str, content: dict[str, Any], indent: int | None = 1) -> None:
        path = self._folder.path / name
        try:
            with whole_file(path) as file:
                file.write(json.dumps(content, indent=indent).encode() + b"\n")
        except OSError as error:
            self.display.say(f"warning: {path} cannot be written ({error.strerror}); the run goes on")

    def _note(self, note: Callable[..., None], *what: Any) -> None:
        try:
            note(self._folder.path, self._step, *what)
        except OSError as error:
            self.display.say(f"warning: {starts.FILE} cannot be written ({error.strerror})")

    def write(self, record: dict[str, Any]) -> None:
        """Figures that nobody is shown, as those of a step's activity, go to metrics.jsonl and W&B alone."""
        self._step = record["step"]
        record = {**record, "time": round(time.time(), 3)}
        if self._metrics and (problem := self._metrics.append(record)):
            self.display.say(f"warning: metrics.jsonl cannot be written now ({problem}); its lines are kept for later")
        if self.wandb:
            self.wandb.log(record)
