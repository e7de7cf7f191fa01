"""Checkpoints: one form whatever the layout, complete or absent.

    <run>/checkpoints/step-00001234/   torch.distributed.checkpoint's files and state.json
    <run>/checkpoints/latest           the name of the newest complete one
    <run>/checkpoints/best             the name of the one with the least validation error

Parameters and momentum stand under the whole net's names, sharded over the towers; any layout reads them back.
"""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, Replicate, Shard

from alexnet_dist.errors import UserError
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.training.state import TrainingState

FORMAT = 2


def save_checkpoint(
    run_dir: Path,
    mesh: Mesh,
    state: TrainingState,
    extra: dict[str, Any],
    keep: int,
    best: bool,
) -> Path:
    """Write checkpoints/step-... by all ranks, publish it by a rename, and let the oldest beyond `keep` go.

    `extra` is what state.json holds beside the run's own numbers (the configuration, the record's position).
    """
    folder = run_dir / "checkpoints" / f"step-{state.step:08d}"
    partial = folder.with_name(f".{folder.name}.partial")
    if mesh.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    mesh.barrier()
    dcp.save(_tensors(mesh, state.net, state.preprocess, state.optimizer), checkpoint_id=partial)
    if mesh.rank == 0:
        shapes = {name: list(shape) for name, shape in state.net.table.parameter_shapes().items()}
        written = {"format": FORMAT, **state.numbers(), "shapes": shapes, **extra}
        (partial / "state.json").write_text(json.dumps(written, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(partial, folder)
        _point(run_dir, "latest", folder.name)
        if best:
            _point(run_dir, "best", folder.name)
        _prune(run_dir, keep)
    mesh.barrier()
    return folder


def choose_checkpoint(resume: str, run_dir: Path) -> Path | None:
    """What a run goes on from: the run folder's own last checkpoint (`auto`), nothing (`none`), or the one named.

    Raises:
        UserError: `none` in a folder that holds checkpoints, or a folder without one is named.
    """
    own = find_checkpoint(run_dir)
    if resume == "auto":
        return own
    if resume == "none":
        if own:
            raise UserError(
                f"{run_dir} holds a run already ({own.name}): set run.dir to another folder, or resume=auto to go on"
            )
        return None
    named = find_checkpoint(Path(resume))
    if named is None:
        raise UserError(f"resume={resume} is no checkpoint: name a step-... folder or a run folder that holds one")
    # A restarted run that once began from the named checkpoint has got further since.
    return own if own and read_state(own).get("resumed_from") == str(named) else named


def find_checkpoint(where: Path) -> Path | None:
    """The checkpoint that a path means: itself, or the latest complete one of a run folder; None if there is none."""
    if (where / "state.json").is_file():
        return where
    pointer = where / "checkpoints" / "latest"
    return where / "checkpoints" / pointer.read_text().strip() if pointer.is_file() else None


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
    mesh: Mesh,
    net: Net,
    preprocess: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Read parameters, the data's statistics and, given an optimizer, its momentum into place, on all ranks.

    `saved` is what `read_state` returned.

    Raises:
        UserError: the checkpoint is of another net, or its files are damaged or incomplete.
    """
    _check_same_net(checkpoint, saved, net)
    try:
        dcp.FileSystemReader(checkpoint).read_metadata()
        dcp.load(_tensors(mesh, net, preprocess, optimizer), checkpoint_id=checkpoint)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{checkpoint} cannot be read ({error}): take another checkpoint") from error
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        reason = str(first).splitlines()[0] if str(first) else type(first).__name__
        raise UserError(f"{checkpoint} cannot be read ({reason}): take another checkpoint") from error


def _tensors(
    mesh: Mesh, net: Net, preprocess: torch.nn.Module, optimizer: torch.optim.Optimizer | None
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a run by their whole names; a share's are views of dimension 0 of the whole net's."""

    def whole(tensor: torch.Tensor) -> DTensor:
        return DTensor.from_local(tensor.detach(), mesh.devices, (Replicate(), Shard(0)), run_check=False)

    named = dict(net.named_parameters())
    tensors: dict[str, dict[str, torch.Tensor]] = {
        "net": {name: whole(parameter) for name, parameter in named.items()},
        "data": dict(preprocess.named_buffers()),
    }
    if optimizer is not None:
        tensors["momentum"] = {
            name: whole(optimizer.state[parameter]["momentum_buffer"]) for name, parameter in named.items()
        }
    return tensors


def _point(run_dir: Path, pointer: str, name: str) -> None:
    path = run_dir / "checkpoints" / pointer
    written = path.with_name(f".{pointer}.partial")
    written.write_text(name + "\n")
    os.replace(written, path)


def _prune(run_dir: Path, keep: int) -> None:
    folder = run_dir / "checkpoints"
    pointed = {(folder / pointer).read_text().strip() for pointer in ("latest", "best") if (folder / pointer).is_file()}
    complete = sorted(path for path in folder.glob("step-*") if path.is_dir())
    for path in complete[:-keep]:
        if path.name not in pointed:
            shutil.rmtree(path)
