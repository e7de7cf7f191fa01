"""A run folder as its files: configuration, metrics, starts, the last checkpoint. The run may still live."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from alexnet_dist.errors import UserError
from alexnet_dist.model.table import Table, build_table
from alexnet_dist.tracking.run_folder import TIMELINE, read_config, read_outcome
from alexnet_dist.tracking.starts import read_starts
from alexnet_dist.training.checkpoint import find_saved
from alexnet_dist.training.state import SavedState


@dataclass(frozen=True)
class RunFiles:
    """What a run folder says of its run.

    `records` are the lines of metrics.jsonl; `starts` those of starts.jsonl, each with its end as `end` or None; `outcome` is
    what the run left in `stopped`. `checkpoint` is the newest complete one, if there is one, and `state` what it says beside its
    tensors.
    """

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    outcome: str | None
    checkpoint: Path | None
    state: SavedState | None

    @property
    def name(self) -> str:
        """The folder's name, with the sweep's before it where it is a job of one."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}" if folder.name.isdecimal() else folder.name

    @property
    def standing(self) -> str:
        """How the run stands, in a few words."""
        return {"done": "complete", "signal": "stopped by a signal"}.get(self.outcome or "", "not complete")

    def table(self) -> Table:
        """Raises UserError where the configuration's model is not one that this program knows."""
        try:
            return build_table(self.config["model"])
        except (UserError, KeyError) as error:
            raise UserError(f"{self.folder / 'config.json'}: {error}") from None

    def timeline(self) -> dict[str, Any] | None:
        """One of its steps, as `training.timeline` has seen it; None where none was seen. Raises UserError."""
        path = self.folder / TIMELINE
        try:
            return json.loads(path.read_text()) if path.is_file() else None
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): remove it, and the report is made without it") from None

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record.get("kind") == kind]

    def overrides(self) -> list[str]:
        """What was said on the command line of the start that its configuration is of."""
        return list(self.config.get("run", {}).get("overrides") or ())

    def chosen_experiment(self) -> str:
        """The choice of `experiment=...` on the command line, or nothing."""
        chosen = [said.partition("=")[2] for said in self.overrides() if said.lstrip("+").startswith("experiment=")]
        return chosen[-1] if chosen else ""

    def experiment(self) -> str:
        """The same where the run had its model, which is called alike; or nothing."""
        chosen = self.chosen_experiment()
        return chosen if chosen.replace("/", "_") == self.config["model"].get("name") else ""

    def final(self) -> dict[str, Any] | None:
        """The last validation: of a complete run the closing one."""
        return next(iter(reversed(self.of_kind("val"))), None)

    def seconds(self) -> float:
        """Seconds between the starts and the ends of the run, as far as both are known."""
        return sum(start["end"]["time"] - start["time"] for start in self.starts if start["end"])

    def most(self, figure: str) -> float | None:
        """The largest of a figure over the `train` records; None where there are none."""
        return max((record[figure] for record in self.of_kind("train") if record.get(figure) is not None), default=None)

    def typical(self, figure: str) -> float | None:
        """The median of a figure over the `train` records; None where there are none."""
        values = [record[figure] for record in self.of_kind("train") if record.get(figure) is not None]
        return median(values) if values else None


def read_run(folder: Path) -> RunFiles:
    """Read the files of a run folder.

    Raises:
        UserError: it is not a run folder, or a file of it cannot be read.
    """
    config = read_config(folder)
    if config is None:
        raise UserError(f"{folder} is no run folder (it has no config.json): name one that a training has left")
    checkpoint, state = find_saved(folder)
    return RunFiles(
        folder=folder,
        config=config,
        records=_read_lines(folder / "metrics.jsonl"),
        starts=read_starts(folder),
        outcome=read_outcome(folder),
        checkpoint=checkpoint,
        state=state,
    )


def jobs_of_sweep(folder: Path) -> list[Path]:
    """The run folders of a sweep in the order of their jobs.

    Raises:
        UserError: the folder holds no run folders.
    """
    jobs = [entry.parent for entry in folder.glob("*/config.json")]
    if not jobs:
        raise UserError(f"sweep={folder} holds no run folders: name the folder that a sweep has left, or give run=...")
    return sorted(jobs, key=lambda job: (not job.name.isdecimal(), int(job.name) if job.name.isdecimal() else 0, job.name))


def folders_of(run: str | Sequence[str] | None, sweep: str | None) -> list[Path]:
    """The run folders that `run` or `sweep` means. Raises UserError where neither or both are set."""
    if (not run) == (not sweep):
        raise UserError("give either run=... (a run folder or a list of them) or sweep=... (the folder of a sweep)")
    if sweep:
        return jobs_of_sweep(Path(sweep))
    return [Path(run)] if isinstance(run, str) else [Path(folder) for folder in run or ()]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; empty where there is none. A last line without its end is one that is being written."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not a JSON object ({error}): restore the file or remove the line") from None
    return records
