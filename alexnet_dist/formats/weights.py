"""Layers for a new net out of any file of weights: an export of this program, torchvision's, or arrays in Caffe's layout."""

from pathlib import Path

import torch

from alexnet_dist.errors import UserError
from alexnet_dist.formats.arrays import listed, read_arrays
from alexnet_dist.formats.layouts import from_caffe, from_torchvision, is_torchvision, kept_before
from alexnet_dist.formats.safetensors_file import is_own, whole_net
from alexnet_dist.model.table import Table, build_table


def dropout_factors(there: Table, here: Table) -> dict[str, float]:
    """By how much a net's weights are multiplied for another table, by name: those behind a dropout that has another rate here,
    so that in testing, where it scales, they give what they gave there."""
    before, now = kept_before(there), kept_before(here)
    return {name: before[name] / now[name] for name in before.keys() & now.keys() if before[name] != now[name]}


def read_layers(path: Path, table: Table, setting: str) -> dict[str, torch.Tensor]:
    """The parameters that a file has for layers of the table, float32 under the table's names, of whatever shapes.

    Raises UserError: no such file, one that cannot be read as weights, or one with none of the table's layers; `setting` is what
    named it.
    """
    arrays, said = read_arrays(path, setting)
    if is_own(said):
        net = whole_net(arrays, said)
        factors = dropout_factors(build_table(net.model), table)
        return {name: value * factors[name] if name in factors else value for name, value in net.parameters.items()}
    parameters = (from_torchvision if is_torchvision(arrays) else from_caffe)(arrays, table, whole=False)
    if not parameters:
        first = table.layers[0].name
        raise UserError(
            f"{setting}={path} holds {listed(arrays)}, and neither {first}.weight as Caffe has it nor torchvision's "
            "features.0.weight: name another file"
        )
    return parameters
