"""The whole net of a checkpoint in one process, whatever processes this one belongs to."""

import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.model.net import Net
from alexnet_dist.settings import Settings
from alexnet_dist.training.checkpoint import reason_of


def load_tensor(checkpoint: Path, group: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One float32 tensor of a checkpoint by its whole name, on the CPU. Raises UserError where it cannot be read."""
    tensors = {group: {name: torch.empty(shape)}}
    _load(checkpoint, tensors)
    return tensors[group][name]


def load_whole_net(checkpoint: Path, settings: Settings, device: torch.device) -> tuple[Net, Preprocess]:
    """The net and its preprocessing with all their tensors. Raises UserError where they cannot be read."""
    table = settings.table()
    net = Net(table)
    preprocess = Preprocess(settings.data.size, table.input_size, settings.data.mean)
    _load(
        checkpoint,
        {
            "net": {name: parameter.detach() for name, parameter in net.named_parameters()},
            "data": dict(preprocess.named_buffers()),
        },
    )
    return net.to(device), preprocess.to(device)


def _load(checkpoint: Path, tensors: dict[str, dict[str, torch.Tensor]]) -> None:
    try:
        with warnings.catch_warnings(category=UserWarning, action="ignore"):  # that one process loads alone, which is meant
            dcp.load(tensors, checkpoint_id=checkpoint, no_dist=True)
    except Exception as error:  # what torch and pickle raise on damaged files is not a closed list
        raise UserError(f"{checkpoint} cannot be read ({reason_of(error)}): take another checkpoint") from error
