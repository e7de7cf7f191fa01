"""The tensors of a checkpoint, written and read by torch.distributed.checkpoint.

Where a share's rows lie in the whole net's tensors is told by planners: DTensor, which does so too, imports torch's compiler.
"""

import pickle
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.storage import WriteResult

from alexnet_dist.errors import UserError, reason_of
from alexnet_dist.model.net import Net
from alexnet_dist.model.share import Share
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.training.checkpoint import NotWrittenError

Tensors = dict[str, dict[str, torch.Tensor]]

# The groups whose tensors a share holds rows of.
_IN_ROWS = ("net", "momentum")


def run_tensors(net: Net, preprocess: torch.nn.Module, optimizer: torch.optim.Optimizer | None, copy: bool = False) -> Tensors:
    """The tensors of a run by their names: of a share its rows, dimension 0, of those of the whole net.

    They are those of the run itself, or copies of them where they are.
    """

    def own(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone() if copy else tensor.detach()

    named = dict(net.named_parameters())
    tensors: Tensors = {
        "net": {name: own(parameter) for name, parameter in named.items()},
        "data": {name: own(buffer) for name, buffer in preprocess.named_buffers()},
    }
    if optimizer is not None:
        tensors["momentum"] = {name: own(optimizer.state[parameter]["momentum_buffer"]) for name, parameter in named.items()}
    return tensors


def read_tensors(tensors: Tensors, checkpoint: Path, mesh: Mesh | None) -> None:
    """Read into the tensors in place, on all ranks of the mesh, or without one a whole net's on this process alone.

    Raises:
        UserError: the checkpoint's files are damaged or incomplete.
    """
    try:
        dcp.FileSystemReader(checkpoint).read_metadata()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it should be, alone
            dcp.load(tensors, checkpoint_id=checkpoint, planner=_LoadPlanner(_share(mesh)), no_dist=mesh is None)
    except (OSError, EOFError, pickle.UnpicklingError, CheckpointException) as error:
        raise UserError(f"{checkpoint} cannot be read ({reason_of(_first(error))}): take another checkpoint") from error


def write_tensors(tensors: Tensors, folder: Path, mesh: Mesh) -> None:
    """Write this rank's part of the tensors. Raises NotWrittenError on all ranks when one could not."""
    planner, group = _SavePlanner(_share(mesh)), mesh.checkpoint_group
    try:
        dcp.save(tensors, storage_writer=_Writer(folder), planner=planner, process_group=group)
    except CheckpointException as error:
        raise NotWrittenError(reason_of(_first(error))) from error


def _first(error: BaseException) -> BaseException:
    """What the first of the ranks met."""
    return next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error


def check_finite(tensors: Tensors) -> None:
    """Raises NotWrittenError for numbers from which no run could go on: gradients may overflow though the loss is finite."""
    for group in tensors.values():
        for name, tensor in group.items():
            if not tensor.isfinite().all():
                raise NotWrittenError(f"{name} holds NaN or infinite numbers")


def _share(mesh: Mesh | None) -> Share:
    return Share(mesh.share, mesh.layout.shares) if mesh else Share(0, 1)


def _in_whole(share: Share, name: str, shape: torch.Size) -> tuple[ChunkStorageMetadata, torch.Size]:
    """Where a tensor of the share lies in the whole net's, and the shape of that."""
    if name.partition(".")[0] not in _IN_ROWS:
        share = Share(0, 1)
    rows, *others = shape
    first = torch.Size([share.index * rows, *(0 for _ in others)])
    return ChunkStorageMetadata(first, shape), torch.Size([share.count * rows, *others])


class _SavePlanner(dcp.DefaultSavePlanner):
    def __init__(self, share: Share) -> None:
        super().__init__()
        self._share = share

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        self.plan = replace(plan, items=[self._placed(item) for item in plan.items])
        return self.plan

    def _placed(self, item: WriteItem) -> WriteItem:
        assert item.tensor_data is not None
        name = item.index.fqn
        chunk, whole = _in_whole(self._share, name, item.tensor_data.size)
        data = replace(item.tensor_data, chunk=chunk, size=whole)
        return WriteItem(MetadataIndex(name, chunk.offsets), WriteItemType.SHARD, tensor_data=data)

    def lookup_object(self, index: MetadataIndex) -> torch.Tensor:
        tensor: torch.Tensor = self.state_dict[index.fqn]
        return tensor


class _LoadPlanner(dcp.DefaultLoadPlanner):
    def __init__(self, share: Share) -> None:
        super().__init__()
        self._share = share

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        items = []
        for name, tensor in self.state_dict.items():
            written = self.metadata.state_dict_metadata.get(name)
            chunk, whole = _in_whole(self._share, name, tensor.shape)
            if not isinstance(written, TensorStorageMetadata) or written.size != whole:
                raise ValueError(f"it has no {name} of {list(whole)}")
            items += create_read_items_for_chunk_list(name, written, [chunk])
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        tensor: torch.Tensor = self.state_dict[index.fqn]
        return tensor


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
