"""Layers for a new net out of any file of weights: an export of this program, torchvision's, or arrays in Caffe's layout."""

from pathlib import Path

import torch

from alexnet_dist.errors import UserError
from alexnet_dist.formats.arrays import listed, read_arrays
from alexnet_dist.formats.layouts import from_caffe, from_torchvision, is_torchvision
from alexnet_dist.formats.safetensors_file import is_own, whole_net
from alexnet_dist.model.table import Table


def read_layers(path: Path, table: Table, setting: str) -> dict[str, torch.Tensor]:
    """The parameters that a file has for layers of the table, float32 under the table's names, of whatever shapes.

    Raises:
        UserError: no such file, one that cannot be read as weights, or one with none of the table's layers; `setting` is
            what named it.
    """
    arrays, said = read_arrays(path, setting)
    if is_own(said):
        return whole_net(arrays, said).parameters
    parameters = (from_torchvision if is_torchvision(arrays) else from_caffe)(arrays, table, whole=False)
    if not parameters:
        first = table.layers[0].name
        raise UserError(
            f"{setting}={path} holds {listed(arrays)}, and neither {first}.weight as Caffe has it nor torchvision's "
            "features.0.weight: name another file"
        )
    return parameters
