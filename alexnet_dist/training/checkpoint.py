"""Checkpoints: one form whatever the layout, complete or absent. This file reads them; saving.py writes them.

    <run>/checkpoints/step-00001234/   torch.distributed.checkpoint's files, state.json and sha256sums
    <run>/checkpoints/latest           the name of the newest complete one
    <run>/checkpoints/best             the name of the one with the least validation error

Parameters and momentum stand under the whole net's names, sharded over the towers; any layout reads them back.
"""

import hashlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, Replicate, Shard

from alexnet_dist.errors import UserError
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh

FORMAT = 3
SUMS = "sha256sums"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run folder, newest first."""
    return sorted((run_dir / "checkpoints").glob("step-*"), reverse=True)


def find_checkpoint(where: Path) -> Path | None:
    """The checkpoint that a path means: itself, or the newest of a run folder; None if there is none."""
    return where if (where / "state.json").is_file() else next(iter(list_checkpoints(where)), None)


def check_resume(resume: str, run_dir: Path) -> None:
    """Raises UserError for `resume=none` in a folder that holds checkpoints, and where a folder without one is named."""
    own = find_checkpoint(run_dir)
    if resume == "none" and own:
        raise UserError(f"{run_dir} holds a run already ({own.name}): set run.dir to another folder, or resume=auto to go on")
    if resume not in ("auto", "none") and find_checkpoint(Path(resume)) is None:
        raise UserError(f"resume={resume} is no checkpoint: name a step-... folder or a run folder that holds one")


def choose_checkpoint(resume: str, run_dir: Path, warn: Callable[[str], None]) -> Path | None:
    """What a run goes on from: the run folder's own newest sound checkpoint (`auto`), nothing (`none`), or the one named.

    Of a run folder, checkpoints whose files are damaged are passed over with a warning; in the run's own they are set
    aside under another name. One that a kill caught between two names is put back.

    Raises:
        UserError: as `check_resume`; the step-... folder named is damaged, or all checkpoints of the run folder are.
    """
    for replaced in (run_dir / "checkpoints").glob(".step-*.replaced"):
        name = replaced.with_name(replaced.stem.removeprefix("."))
        if not name.exists():
            os.rename(replaced, name)
    check_resume(resume, run_dir)
    if resume == "none":
        return None
    own = _newest_sound(run_dir, warn, set_aside=True)
    if resume == "auto":
        return own
    named = Path(resume)
    if own and _begun_from(own, named):
        return own  # a restarted run that began from the named checkpoint has got further since
    if (named / "state.json").is_file():
        check_sound(named)
        return named
    return _newest_sound(named, warn, set_aside=False)


def check_sound(checkpoint: Path) -> None:
    """Raises UserError when a checkpoint's files are not those that were written."""
    if damage := _damage(checkpoint):
        raise UserError(f"{checkpoint} is damaged ({damage}): take another checkpoint")


def sums_of(folder: Path, pattern: str) -> str:
    """SHA-256 sums of a folder's files in the form of sha256sum, a line each."""
    lines = []
    for path in sorted(folder.glob(pattern)):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return "".join(lines)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its run beside the tensors.

    Raises:
        UserError: it is not a checkpoint that this program can read.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint} holds no readable checkpoint ({error}): name a step-... folder or a run folder") from None
    if state.get("format") != FORMAT:
        raise UserError(f"{checkpoint} has checkpoint format {state.get('format')}, this program reads format {FORMAT}")
    return state


def _check_same_net(checkpoint: Path, state: dict[str, Any], net: Net) -> None:
    """Raises UserError, naming the first parameter that differs, when a checkpoint is of another net."""
    ours = {name: list(shape) for name, shape in net.table.parameter_shapes().items()}
    theirs = state["shapes"]
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"{checkpoint} is of another net: {name} is {theirs.get(name, 'absent')} there and "
                f"{ours.get(name, 'absent')} in this model; take the model it was made with, or resume=none and another run.dir"
            )


def load_checkpoint(
    checkpoint: Path,
    saved: dict[str, Any],
    mesh: Mesh | None,
    net: Net,
    preprocess: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Read parameters, the data's statistics and, given an optimizer, its momentum into place, on all ranks.

    `saved` is what `read_state` returned. Without a mesh this process reads the whole net alone.

    Raises:
        UserError: the checkpoint is of another net, or its files are damaged or incomplete.
    """
    _check_same_net(checkpoint, saved, net)
    try:
        dcp.FileSystemReader(checkpoint).read_metadata()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it should be, without a mesh
            dcp.load(run_tensors(mesh, net, preprocess, optimizer), checkpoint_id=checkpoint, no_dist=mesh is None)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{checkpoint} cannot be read ({error}): take another checkpoint") from error
    except CheckpointException as error:
        raise UserError(f"{checkpoint} cannot be read ({reason_of(error)}): take another checkpoint") from error


def reason_of(error: BaseException) -> str:
    """Why a checkpoint could not be read or written, in a few words."""
    if isinstance(error, CheckpointException):
        error, _ = next(iter(error.failures.values()))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def run_tensors(
    mesh: Mesh | None, net: Net, preprocess: torch.nn.Module, optimizer: torch.optim.Optimizer | None, copy: bool = False
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a run by their whole names; a share's are views of dimension 0 of the whole net's, a whole net's its own.

    They are those of the run itself, or copies of them where they are.
    """

    def own(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone() if copy else tensor.detach()

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        if mesh is None:
            return own(tensor)
        return DTensor.from_local(own(tensor), mesh.devices, (Replicate(), Shard(0)), run_check=False)

    named = dict(net.named_parameters())
    tensors: dict[str, dict[str, torch.Tensor]] = {
        "net": {name: whole(parameter) for name, parameter in named.items()},
        "data": {name: own(buffer) for name, buffer in preprocess.named_buffers()},
    }
    if optimizer is not None:
        tensors["momentum"] = {
            name: whole(optimizer.state[parameter]["momentum_buffer"]) for name, parameter in named.items()
        }
    return tensors


def _begun_from(own: Path, named: Path) -> bool:
    """Whether the run of the checkpoint `own` began from a run folder or checkpoint."""
    begun_from = read_state(own).get("resumed_from")
    return begun_from is not None and (Path(begun_from) == named or Path(begun_from).parent.parent == named)


def _newest_sound(run_dir: Path, warn: Callable[[str], None], set_aside: bool) -> Path | None:
    damaged: dict[Path, str] = {}
    for checkpoint in list_checkpoints(run_dir):
        damage = _damage(checkpoint)
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


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        lines = (checkpoint / SUMS).read_text().splitlines(keepends=True)
        names = [line.rstrip("\n").partition("  ")[2] for line in lines]
        if not {"state.json", ".metadata"} <= set(names):
            return f"{SUMS} is not whole"
        changed = (name for name, line in zip(names, lines, strict=True) if sums_of(checkpoint, name) != line)
        return next((f"{name} is not as it was written" for name in changed), None)
    except (OSError, ValueError) as error:
        return reason_of(error)
