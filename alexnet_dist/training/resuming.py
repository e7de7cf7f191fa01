"""What a run goes on from: its own newest sound checkpoint, one that is named, or nothing; and that it stays the same run."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alexnet_dist.errors import UserError
from alexnet_dist.fields import flat
from alexnet_dist.settings import Settings
from alexnet_dist.tracking.run_folder import read_config, read_outcome
from alexnet_dist.training.checkpoint import check_same_net, check_sound, damage_of, find_checkpoint, list_checkpoints
from alexnet_dist.training.state import SavedState

# Groups of settings that say nothing of the training, and single ones that say how fast the data come and not which.
_NOT_OF_THE_TRAINING = ("run", "resume", "resume_allow", "tracking")
_NOT_OF_THE_DATA = ("data.threads", "data.share_decoding", "data.on_bad", "data.max_bad")
_WHICH_IMAGES = {"data.root", "data.source", "data.val_every"}


def check_resume(settings: Settings, config: Mapping[str, Any], run_dir: Path) -> None:
    """What can be said of a run in this folder before its processes start.

    Raises:
        UserError: `resume=none` in a folder that holds checkpoints, a folder without one is named, one is named in a folder that
            holds another run, or as `check_same_run`.
    """
    own, named = find_checkpoint(run_dir), _named(settings, run_dir)
    checkpoint = own or named
    try:
        saved = checkpoint and SavedState.read(checkpoint)
    except UserError:
        return  # it is damaged, and may be passed over
    if checkpoint and saved:
        if own:
            _check_begun_as_said(own, saved, settings, run_dir)
        check_same_run(checkpoint, saved, settings, config)


def choose_checkpoint(settings: Settings, run_dir: Path, warn: Callable[[str], None]) -> Path | None:
    """What a run goes on from: the run folder's own newest sound checkpoint (`auto`), nothing (`none`), or the one named.

    Of a run folder, checkpoints whose files are damaged are passed over with a warning; in the run's own they are set
    aside under another name. One that a kill caught between two names is put back.

    Raises:
        UserError: `resume=none` in a folder that holds checkpoints, a folder without one is named, one is named in a folder that
            holds another run, the step-... folder named is damaged, or all checkpoints of the run folder are.
    """
    for replaced in (run_dir / "checkpoints").glob(".step-*.replaced"):
        name = replaced.with_name(replaced.stem.removeprefix("."))
        if not name.exists():
            os.rename(replaced, name)
    named = _named(settings, run_dir)
    own = _newest_sound(run_dir, warn, set_aside=True)
    if own:  # a restarted run that began from the named checkpoint has got further since
        _check_begun_as_said(own, SavedState.read(own), settings, run_dir)
    else:
        _check_no_record_is_lost(run_dir)
    if own or named is None:
        return own
    if named == Path(settings.resume):
        check_sound(named)
        return named
    return _newest_sound(Path(settings.resume), warn, set_aside=False)


def _check_no_record_is_lost(run_dir: Path) -> None:
    """Raises UserError where a folder without a checkpoint has files that a new run would write over, of a run that is done or of
    something else. A run that ended before its first checkpoint begins anew in its folder."""
    metrics = run_dir / "metrics.jsonl"
    if read_config(run_dir) is None and metrics.exists() and metrics.stat().st_size:
        raise UserError(f"{metrics} is not a run's, and a run here would write over it: set run.dir to another folder")
    if read_outcome(run_dir) == "done":
        raise UserError(
            f"{run_dir} holds the record of a run that is done, and its checkpoints are gone: set run.dir to another folder"
        )


def check_same_run(checkpoint: Path, saved: SavedState, settings: Settings, config: Mapping[str, Any]) -> None:
    """Raises UserError where a checkpoint is of another net, or another seed, model or data made it, unless `resume_allow` names
    that."""
    check_same_net(checkpoint, saved, settings.table())
    for name, (was, now) in what_differs(saved.config, config).items():
        group = name.partition(".")[0]
        imported = saved.training_images is None  # of which the model alone is known
        kept = ("model",) if imported else ("seed", "model", "data")
        if group in kept and name not in _NOT_OF_THE_DATA and group not in settings.resume_allow:
            raise UserError(
                f"{checkpoint} was made with {name}={was} and this start says {name}={now}: give the same, or set run.dir to "
                f"another folder for a new run, or go on with resume_allow=[{group}]"
            )


def what_differs(saved: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings of a training that are not as a checkpoint's configuration has them, by name: as they were and as they are."""
    was, now = flat(saved), flat(config)
    return {
        name: (was.get(name), now.get(name))
        for name in [*now, *(name for name in was if name not in now)]
        if name.partition(".")[0] not in _NOT_OF_THE_TRAINING and not _same(name, was.get(name), now.get(name))
    }


def have_other_images(saved: SavedState, config: Mapping[str, Any], training_images: int) -> bool:
    """Whether this start's images are not the checkpoint's: another number, from another place, or others are set aside."""
    return saved.training_images != training_images or not _WHICH_IMAGES.isdisjoint(what_differs(saved.config, config))


def _same(name: str, was: Any, now: Any) -> bool:
    if name == "data.root" and was and now:
        return Path(was).resolve() == Path(now).resolve()
    return bool(was == now)


def _named(settings: Settings, run_dir: Path) -> Path | None:
    """The checkpoint that `resume` names; None for auto and none."""
    own = find_checkpoint(run_dir)
    if settings.resume == "none" and own:
        raise UserError(f"{run_dir} holds a run already ({own.name}): set run.dir to another folder, or resume=auto to go on")
    if settings.resume in ("auto", "none"):
        return None
    named = find_checkpoint(Path(settings.resume))
    if named is None:
        raise UserError(f"resume={settings.resume} is no checkpoint: name a step-... folder or a run folder that holds one")
    return named


def _check_begun_as_said(own: Path, saved: SavedState, settings: Settings, run_dir: Path) -> None:
    """Raises UserError where `resume` names what the run of the folder's checkpoint `own` did not begin from: two runs would be
    mixed."""
    begun_from = Path(saved.resumed_from or run_dir).resolve()
    mine = (begun_from, begun_from.parent.parent, run_dir.resolve())
    if settings.resume not in ("auto", "none") and Path(settings.resume).resolve() not in mine:
        raise UserError(
            f"{run_dir} holds a run ({own.name}) that did not begin from resume={settings.resume}: set run.dir to another "
            "folder, or go on with that run by resume=auto"
        )


def _newest_sound(run_dir: Path, warn: Callable[[str], None], set_aside: bool) -> Path | None:
    damaged: dict[Path, str] = {}
    for checkpoint in list_checkpoints(run_dir):
        damage = damage_of(checkpoint)
        if damage is None:
            break
        damaged[checkpoint] = damage
    else:
        if damaged:
            newest, damage = next(iter(damaged.items()))
            raise UserError(
                f"{run_dir} has no checkpoint that is whole ({newest.name}: {damage}): mend it, or set run.dir to another folder"
            )
        return None
    for passed_over, damage in damaged.items():
        warn(f"warning: {passed_over} is damaged ({damage}) and is passed over for {checkpoint.name}")
        if set_aside:
            aside = passed_over.with_name(f"damaged-{passed_over.name}")
            shutil.rmtree(aside, ignore_errors=True)  # of the same step, damaged earlier
            os.rename(passed_over, aside)
    return checkpoint
