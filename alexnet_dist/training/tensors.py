"""The tensors of a checkpoint, written and read by torch.distributed.checkpoint."""

import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor, Replicate, Shard

from alexnet_dist.errors import UserError
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.training.checkpoint import NotWrittenError, reason_of

Tensors = dict[str, dict[str, torch.Tensor]]


def run_tensors(
    mesh: Mesh | None, net: Net, preprocess: torch.nn.Module, optimizer: torch.optim.Optimizer | None, copy: bool = False
) -> Tensors:
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
    tensors: Tensors = {
        "net": {name: whole(parameter) for name, parameter in named.items()},
        "data": {name: own(buffer) for name, buffer in preprocess.named_buffers()},
    }
    if optimizer is not None:
        tensors["momentum"] = {
            name: whole(optimizer.state[parameter]["momentum_buffer"]) for name, parameter in named.items()
        }
    return tensors


def read_tensors(tensors: Tensors, checkpoint: Path, alone: bool = False) -> None:
    """Read into the tensors in place, on all ranks, or `alone` on this one.

    Raises:
        UserError: the checkpoint's files are damaged or incomplete.
    """
    try:
        dcp.FileSystemReader(checkpoint).read_metadata()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it should be, alone
            dcp.load(tensors, checkpoint_id=checkpoint, no_dist=alone)
    except (OSError, EOFError, pickle.UnpicklingError, CheckpointException) as error:
        raise UserError(f"{checkpoint} cannot be read ({reason_of(_first(error))}): take another checkpoint") from error


def write_tensors(tensors: Tensors, folder: Path, group: dist.ProcessGroup | None) -> None:
    """Write this rank's part of the tensors. Raises NotWrittenError on all ranks when one could not."""
    try:
        dcp.save(tensors, storage_writer=_Writer(folder), process_group=group)
    except CheckpointException as error:
        raise NotWrittenError(reason_of(_first(error))) from error


def _first(error: BaseException) -> BaseException:
    """What the first of the ranks met."""
    return next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error


def check_finite(tensors: Tensors) -> None:
    """Raises NotWrittenError for numbers from which no run could go on: gradients may overflow though the loss is finite."""
    for group in tensors.values():
        for name, tensor in group.items():
            own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            if not own.isfinite().all():
                raise NotWrittenError(f"{name} holds NaN or infinite numbers")


class _Writer(dcp.FileSystemWriter):
    """Tells the system's reason why a file could not be written; torch's own error, raised behind it, says nothing of it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        sys.unraisablehook = _told_already

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            cause = error.__context__
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            raise cause or error from error


def _told_already(unraisable: "sys.UnraisableHookArgs") -> None:
    """torch's stream tries once more to write when it is thrown away, and Python 3.13 tells what it does not raise."""
    if "NoCloseWriter" not in f"{unraisable.err_msg} {unraisable.object!r}":
        sys.__unraisablehook__(unraisable)
