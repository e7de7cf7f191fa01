"""Checkpoints: one form whatever the layout, complete or absent. This file knows their folders, tensors.py what is in them;
saving.py writes them, and resuming.py chooses the one from which a run goes on.

    <run>/checkpoints/step-00001234/   torch.distributed.checkpoint's files, state.json and sha256sums
    <run>/checkpoints/latest           the name of the newest complete one
    <run>/checkpoints/best             the name of the one with the least validation error

Parameters and momentum stand under the whole net's names, sharded over the towers; any layout reads them back.
"""

from pathlib import Path

import torch

from alexnet_dist.errors import UserError, reason_of
from alexnet_dist.files import sha256_of
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.training.state import STATE, SavedState

SUMS = "sha256sums"


class NotWrittenError(Exception):
    """Some rank could not or would not write its part; the message is the reason."""


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run folder, newest first."""
    return sorted((run_dir / "checkpoints").glob("step-*"), reverse=True)


def find_checkpoint(where: Path) -> Path | None:
    """The checkpoint that a path means: itself, or the newest of a run folder; None if there is none."""
    return where if (where / STATE).is_file() else next(iter(list_checkpoints(where)), None)


def find_saved(where: Path) -> tuple[Path, SavedState] | tuple[None, None]:
    """The checkpoint that a path means and what it says; another, where a run that goes on has put a newer one in its place.
    Raises UserError where it cannot be read."""
    while checkpoint := find_checkpoint(where):
        try:
            return checkpoint, SavedState.read(checkpoint)
        except UserError:
            if checkpoint.exists():
                raise
    return None, None


def check_sound(checkpoint: Path) -> None:
    """Raises UserError when a checkpoint's files are not those that were written."""
    damage = damage_of(checkpoint)
    if damage and not checkpoint.exists():
        raise UserError(f"{checkpoint} is gone, as where its run goes on and keeps newer ones: start the same command again")
    if damage:
        raise UserError(f"{checkpoint} is damaged ({damage}): take another checkpoint")


def sums_of(folder: Path, pattern: str) -> str:
    """SHA-256 sums of a folder's files in the form of sha256sum, a line each."""
    return "".join(f"{sha256_of(path)}  {path.name}\n" for path in sorted(folder.glob(pattern)))


def check_same_net(checkpoint: Path, saved: SavedState, table: Table) -> None:
    """Raises UserError, naming the first parameter that differs, when a checkpoint is of another net."""
    ours, theirs = table.parameter_shapes(), saved.shapes
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"{checkpoint} is of another net: {name} is {theirs.get(name, 'absent')} there and "
                f"{ours.get(name, 'absent')} in this model; take the model it was made with, or resume=none and another run.dir"
            )


def load_checkpoint(
    checkpoint: Path,
    saved: SavedState,
    mesh: Mesh | None,
    net: Net,
    preprocess: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Read parameters, the data's statistics and, given an optimizer, its momentum into place, on all ranks.

    Without a mesh this process reads the whole net alone.

    Raises:
        UserError: the checkpoint is of another net, or its files are damaged or incomplete.
    """
    # Not at the top: it takes a second to import, and what starts a training, or draws one, reads no tensors.
    from alexnet_dist.training.tensors import read_tensors, run_tensors

    check_same_net(checkpoint, saved, net.table)
    read_tensors(run_tensors(net, preprocess, optimizer), checkpoint, mesh)


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        lines = (checkpoint / SUMS).read_text().splitlines(keepends=True)
        names = [line.rstrip("\n").partition("  ")[2] for line in lines]
        if not {STATE, ".metadata"} <= set(names):
            return f"{SUMS} is not whole"
        changed = (name for name, line in zip(names, lines, strict=True) if sums_of(checkpoint, name) != line)
        return next((f"{name} is not as it was written" for name in changed), None)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return reason_of(error)
