"""The record of a run: what rank 0 shows, writes to metrics.jsonl and tells W&B. Other ranks record nothing."""

import json
import os
from pathlib import Path
from typing import Any

from alexnet_dist.errors import Stopped
from alexnet_dist.settings import TrackingSettings
from alexnet_dist.tracking.display import Display, training_figures, validation_figures
from alexnet_dist.tracking.metrics import MetricsFile
from alexnet_dist.tracking.wandb_run import WandbRun


class Record:
    """Takes the run's figures, one dictionary each time; `kind` is `train`, `signals` or `val`."""

    def __init__(self, run_dir: Path, settings: TrackingSettings, config: dict[str, Any], display: Display) -> None:
        self.run_dir = run_dir
        self.display = display
        self._settings = settings
        self._config = config
        self._metrics: MetricsFile | None = None
        self._wandb: WandbRun | None = None

    def open(self, resumed: dict[str, Any] | None) -> None:
        """Begin, or go on where the checkpoint stood whose state is `resumed`; rank 0 alone calls this."""
        self._write_configuration()
        self._metrics = MetricsFile(self.run_dir / "metrics.jsonl")
        self._metrics.rewind(resumed["metrics_bytes"] if resumed else 0)
        if self._settings.kind == "wandb":
            self._wandb = WandbRun(self._settings, self._config, self.run_dir, resumed["wandb_id"] if resumed else None)
            if self._wandb.unreachable:
                self.display.say(f"W&B cannot be reached ({self._wandb.unreachable}): the run is recorded offline")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the record."""
        return {
            "metrics_bytes": self._metrics.size if self._metrics else 0,
            "wandb_id": self._wandb.id if self._wandb else None,
        }

    def training(self, record: dict[str, Any], total_steps: int) -> None:
        """The figures of a training step."""
        self.display.show("training", record["step"], total_steps, training_figures(record))
        self._write(record)

    def signals(self, record: dict[str, Any]) -> None:
        """The sizes of a step's activations and backward signals."""
        self._write(record)

    def validation(self, record: dict[str, Any]) -> None:
        """The figures of a validation."""
        self.display.say(validation_figures(record))
        self._write(record)

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None and not issubclass(kind, Stopped))

    def close(self, failed: bool) -> None:
        """Finish both records, and say where an offline W&B run waits to be uploaded."""
        if self._metrics:
            self._metrics.close()
        if self._wandb:
            folder = self._wandb.offline_folder
            self._wandb.finish(failed)
            if self._wandb.lost:
                self.display.say("W&B's process ended before the run: metrics.jsonl holds what it has not recorded")
            elif folder:
                self.display.say(f"W&B: recorded offline; upload it with: wandb sync {folder}")

    def _write_configuration(self) -> None:
        path, partial = self.run_dir / "config.json", self.run_dir / ".config.json.partial"
        try:
            partial.write_text(json.dumps(self._config, indent=1) + "\n")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            self.display.say(f"warning: {path} cannot be written ({error.strerror}); the run goes on")

    def _write(self, record: dict[str, Any]) -> None:
        if self._metrics and (problem := self._metrics.append(record)):
            self.display.say(f"warning: metrics.jsonl cannot be written now ({problem}); its lines are kept for later")
        if self._wandb:
            self._wandb.log(record)
