"""Layers of a new run taken from another run's checkpoint or from a file of weights, as the authors began their net of six
convolutions (paper, section 6).

Parameters alone are taken: momentum, schedule, step and the data's statistics begin anew, unlike with `resume`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.formats.arrays import KINDS, listed
from alexnet_dist.formats.weights import dropout_factors, read_layers
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table, build_table
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.training.checkpoint import check_sound, find_checkpoint
from alexnet_dist.training.state import SavedState


def choose_layers(init_from: str, wanted: Sequence[str] | None, table: Table) -> tuple[Path, list[str]]:
    """The file of weights or the checkpoint that `init_from` means (a run folder's newest), and the layers of `table` to take
    from it: the `wanted` ones, or all whose weight and bias have the same shapes there.

    Raises:
        UserError: no such file or checkpoint, a wanted layer that the model lacks or that differs there, or nothing to take.
    """
    source = Path(init_from)
    if source.is_file():
        theirs = {name: list(array.shape) for name, array in read_layers(source, table, "init_from").items()}
    elif checkpoint := find_checkpoint(source):
        source, theirs = checkpoint, SavedState.read(checkpoint).shapes
    else:
        raise UserError(
            f"init_from={init_from} is no checkpoint and no file: name a step-... folder, a run folder that holds one, or a file "
            f"of weights ({KINDS})"
        )
    ours = {layer.name: _shapes(layer.name, table.parameter_shapes()) for layer in table.layers}
    for name in wanted or ():
        if name not in ours:
            raise UserError(f"init_layers names {name}, which the model lacks: its layers are {', '.join(ours)}")
        if _shapes(name, theirs) != ours[name]:
            there = f"{_shapes(name, theirs)[0]} there" if f"{name}.weight" in theirs else "absent there"
            raise UserError(
                f"init_layers names {name}, whose weight is {ours[name][0]} in this model and {there} ({source}): leave it out"
            )
    taken = list(wanted) if wanted is not None else [name for name, shapes in ours.items() if _shapes(name, theirs) == shapes]
    if not taken:
        raise UserError(
            f"{source} has no layer that agrees in name and shape with one of this model: it holds "
            f"{listed(f'{name} {shape}' for name, shape in theirs.items())}; name another with init_from"
        )
    return source, taken


def take_layers(init_from: str, wanted: Sequence[str] | None, net: Net, preprocess: Preprocess, mesh: Mesh) -> str:
    """Read the chosen layers' parameters into place, on all ranks; which were taken and which begin anew, in a line.

    Weights behind a dropout that has another rate here come so that in testing, where it scales, they give what they gave there.

    Raises:
        UserError: as `choose_layers`; the checkpoint's files are damaged or incomplete.
    """
    chosen = choose_layers(init_from, wanted, net.table) if mesh.rank == 0 else None
    source, layers = mesh.from_first(chosen)
    if source.is_file():
        whole = read_layers(source, net.table, "init_from")
        with torch.no_grad():
            for name, own in net.named_parameters():
                if name.rpartition(".")[0] in layers:
                    own.copy_(whole[name][net.share.rows(len(whole[name]))])
    else:
        _read_checkpoint(source, layers, net, preprocess, mesh)
    anew = [layer.name for layer in net.table.layers if layer.name not in layers]
    return f"from {source}: {', '.join(layers)}; begun anew: {', '.join(anew) or 'nothing'}"


def _read_checkpoint(checkpoint: Path, layers: Sequence[str], net: Net, preprocess: Preprocess, mesh: Mesh) -> None:
    from alexnet_dist.training.tensors import read_tensors, run_tensors  # not at the top: it takes a second to import

    if mesh.rank == 0:
        check_sound(checkpoint)
    parameters = run_tensors(net, preprocess, None)["net"]
    taken = {name: tensor for name, tensor in parameters.items() if name.rpartition(".")[0] in layers}
    read_tensors({"net": taken}, checkpoint, mesh)
    factors = dropout_factors(build_table(SavedState.read(checkpoint).config["model"]), net.table)
    with torch.no_grad():
        for name in taken.keys() & factors.keys():
            net.get_parameter(name).mul_(factors[name])


def _shapes(layer: str, shapes: Mapping[str, list[int]]) -> tuple[list[int], list[int]]:
    """Of a layer's weight and bias; empty where there are none."""
    return shapes.get(f"{layer}.weight", []), shapes.get(f"{layer}.bias", [])
