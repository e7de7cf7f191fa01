"""When a loss is NaN or infinite: traced to the layer where it began."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from alexnet_dist.errors import RunFailed
from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.model.layers import TowerLayer
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.parallel.process import Autocast
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.saving import Checkpoints
from alexnet_dist.training.state import TrainingState

# Of each slice the images, their labels, and the key of their dropout masks.
Inputs = Iterable[tuple[torch.Tensor, torch.Tensor, DropoutKey]]


def leave_out_or_stop(
    on_nan: str,
    step: int,
    state: TrainingState,
    inputs: Inputs,
    mesh: Mesh,
    autocast: Autocast,
    display: Display,
    checkpoints: Checkpoints,
) -> None:
    """What becomes of the `step`-th step, whose loss is NaN or infinite; every rank takes part. `inputs` are its slices'
    (`Step.inputs`). Its update has been left out, and those that followed too unless they are to be.

    Raises:
        RunFailed: its update is not to be left out, or the parameters are not finite either.
    """
    bad = f"the loss is NaN or infinite at step {step}"
    if on_nan == "skip" and all_finite(state.net, mesh):
        state.skipped += 1
        display.say(f"warning: {bad}; its update is left out ({state.skipped} so far)")
        return
    began = where_it_began(state.net, inputs, mesh, autocast)
    checkpoints.wait()
    kept = f"the checkpoint of step {checkpoints.saved_step} stays" if checkpoints.saved_step else "there is no checkpoint yet"
    raise RunFailed(f"{bad}: activations first went bad in {began}; {kept}")


def all_finite(net: nn.Module, mesh: Mesh) -> bool:
    """Whether all parameters on all ranks are finite; every rank takes part."""
    bad = torch.tensor(float(not all(parameter.isfinite().all() for parameter in net.parameters())))
    dist.all_reduce(bad, group=mesh.host_group)
    return not bad


def where_it_began(net: Net, inputs: Inputs, mesh: Mesh, autocast: Autocast) -> str:
    """The layer and the towers whose output is first not finite, in words; every rank takes part.

    The step's slices go forward again, with the same dropout masks and the parameters as they were.
    """
    found: list[tuple[int, str, list[int]]] = []

    def look(layer: TowerLayer, _: Any, outputs: list[torch.Tensor]) -> None:
        bad = [tower for tower, maps in zip(layer.towers, outputs, strict=True) if not maps.isfinite().all()]
        if bad:
            found.append((layer.position, layer.layer.name, bad))

    with ExitStack() as hooks:
        for layer in net.layers():
            hooks.enter_context(layer.register_forward_hook(look))
        for images, _, key in inputs:
            if not images.isfinite().all():
                found.append((-1, "the images", []))
            with torch.no_grad(), autocast():
                net(images, key)
    first = sorted(entry for entries in mesh.from_everyone(found) for entry in entries)
    if not first:
        return "the loss itself"
    position, name, _ = first[0]
    towers = sorted({tower for entry in first if entry[0] == position for tower in entry[2]})
    return name if position < 0 else f"{name} of tower " + " and ".join(map(str, towers))
