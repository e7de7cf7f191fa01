"""Rebuild the whole W&B run of a run folder from its files: metrics.jsonl, config.json and figures/.

python -m alexnet_dist.track run=runs/x
python -m alexnet_dist.track sweep=runs/sweep-2012-09-30_12-00-00 mode=online

For a run that was stopped and resumed offline, which W&B itself cannot put together, or that was trained with tracking=none.
"""

import os
import shlex
from glob import escape
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from alexnet_dist.errors import RunFailed, UserError
from alexnet_dist.fields import FilePath, check, strict
from alexnet_dist.figures.run_files import RunFiles, folders_of, read_run
from alexnet_dist.launching.commands import command
from alexnet_dist.settings import TrackingSettings
from alexnet_dist.tracking.display import Display
from alexnet_dist.tracking.run_folder import RunFolder


@dataclass(frozen=True, config=strict)
class TrackSettings:
    """What conf/track.yaml may say."""

    run: FilePath | list[FilePath] | None
    sweep: FilePath | None
    output: FilePath | None
    mode: Literal["auto", "online", "offline"]
    id: str | None
    project: str | None
    entity: str | None
    group: str | None
    name: str | None
    tags: tuple[str, ...] | None
    artifacts: bool


def track(config: dict[str, Any]) -> None:
    """Record every run that a composed conf/track.yaml names; the last line says how to upload what lies offline."""
    settings = check(TrackSettings, config)
    folders = folders_of(settings.run, settings.sweep)
    if settings.id is not None and len(folders) > 1:
        raise UserError(f"id={settings.id} cannot be that of {len(folders)} runs: leave it out, or name one run")
    runs = [read_run(folder) for folder in folders]
    group = Path(settings.sweep).resolve().name if settings.sweep else None
    offline = []
    with Display(rank=0) as display:
        for run in runs:
            if settings.sweep and not run.records:
                display.say(f"{run.folder} has no records and is left out")
                continue
            try:
                left = rebuild(run, settings, group, display)
            except OSError as error:
                reason = error.strerror or error
                raise RunFailed(f"{run.folder} could not be recorded ({reason}): make room, or name another output=") from None
            if left:
                offline.append(str(left))
        if offline:
            display.say(f"W&B: recorded offline; upload it with: wandb sync {shlex.join(offline)}")


def rebuild(run: RunFiles, settings: TrackSettings, group: str | None, display: Display) -> Path | None:
    """Record one run anew; the folder of the W&B run where it is offline.

    Raises:
        UserError: the run lives, its folder cannot be written, it has no records yet, or the W&B server refuses it.
        RunFailed: W&B's process ended meanwhile.
    """
    from alexnet_dist.figures.wandb_media import hand_over
    from alexnet_dist.launching.wandb_account import wanted_mode
    from alexnet_dist.tracking.wandb_run import WandbRun

    if not run.records:
        raise UserError(f"{run.folder} has no records yet (metrics.jsonl is empty): let it train some steps first")
    folder = Path(settings.output or run.folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file: name a folder for W&B's files")
    if folder == run.folder and not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written: name a folder for W&B's files with output=...")
    with RunFolder(folder).held():
        run_id = settings.id or _own_id(run, aside=settings.output is None)
        mode = wanted_mode() if settings.mode == "auto" else settings.mode
        if mode == "disabled":
            raise UserError("WANDB_MODE=disabled records nothing: unset it, or give mode=offline")
        parts = _waiting(run) if settings.output is None else []
        files = folder if settings.output else None
        wandb_run = WandbRun(_tracking(run, settings, group), run.config, folder, run_id, mode, files=files)
        _set_aside(parts)
        if wandb_run.unreachable:
            display.say(f"W&B cannot be reached ({wandb_run.unreachable}): the run is recorded offline")
        for done, record in enumerate(run.records, 1):
            wandb_run.log(record)
            display.show(run.name, done, len(run.records))
        hand_over(run.folder, wandb_run, settings.artifacts)
        left = wandb_run.offline_folder
        wandb_run.finish(failed=run.outcome is None)
        if wandb_run.lost:
            raise RunFailed(f"{run.folder}: W&B's own process was lost, so the W&B run {wandb_run.id} is not whole: track again")
        display.say(f"{run.folder}: {len(run.records)} records in the W&B run {wandb_run.id}")
    return left


def _tracking(run: RunFiles, settings: TrackSettings, group: str | None) -> TrackingSettings:
    """How the run was trained to be tracked, as overridden here."""
    given = {key: getattr(settings, key) for key in ("project", "entity", "group", "name", "tags")}
    wanted = {**run.config["tracking"], **{key: value for key, value in given.items() if value is not None}}
    defaults = {"group": group, "name": run.folder.name}
    wanted |= {key: value for key, value in defaults.items() if wanted.get(key) is None}
    return check(TrackingSettings, {**wanted, "kind": "wandb"})


def _own_id(run: RunFiles, aside: bool) -> str | None:
    """The id that the run has in W&B; None where it has none, where some of it has been uploaded under it, or where some of it is
    not set `aside` and may yet be.

    What W&B's server has of a run can be added to and not be replaced.
    """
    uploaded = any(part.name.startswith("run-") or list(part.glob("*.synced")) for part in _parts(run))
    waiting = _waiting(run)
    if uploaded or (not aside and waiting):
        return None
    tracked_before = [part.name.split("-", 3)[3] for part in waiting]  # offline-run-<date>_<time>-<id>
    return next((start["wandb_id"] for start in reversed(run.starts) if start["wandb_id"]), next(iter(tracked_before), None))


def _waiting(run: RunFiles) -> list[Path]:
    """What was recorded offline and is not set aside."""
    return [part for part in _parts(run) if part.name.startswith("offline-") and part.parent.name == "wandb"]


def _parts(run: RunFiles) -> list[Path]:
    """What W&B has left of the run: in its folder, and in WANDB_DIR under its ids."""
    from alexnet_dist.launching.wandb_account import files_folder

    ids = dict.fromkeys(escape(start["wandb_id"]) for start in run.starts if start["wandb_id"])
    places = [(run.folder, "*run-*"), *((files_folder(run.folder), f"*run-????????_??????-{name}") for name in ids)]
    found = [place.glob(f"{folder}/{name}") for place, name in places for folder in ("wandb", "wandb/replaced")]
    return list(dict.fromkeys(part.resolve() for parts in found for part in sorted(parts)))


def _set_aside(parts: list[Path]) -> None:
    """Move what was recorded offline before into wandb/replaced/, so that nobody uploads it beside the whole run."""
    for part in parts:
        replaced = part.parent / "replaced" / part.name
        replaced.parent.mkdir(exist_ok=True)
        os.rename(part, replaced)


def main() -> None:
    command("track", track)


if __name__ == "__main__":
    main()
