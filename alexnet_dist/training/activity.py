"""The activity of a step, by layer and tower: how large the activations are and the gradient that comes back, how many units are
saturated or dead. They show why tanh and sigmoid nets learn slower (paper, section 3.1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from alexnet_dist.model.layers import TowerLayer
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh

# A tanh beyond +-SATURATED is saturated, and a sigmoid whose distance from 1/2 is beyond SATURATED / 2: there the slope is below
# 2 % of its steepest.
SATURATED = 0.99

# What is summed of a layer's tower: squares of its outputs, their number, squares of their gradients; saturated outputs of its
# tanh or sigmoid, their number.
_SUMS = 5


class Activity:
    """Watches steps of a net on demand; a step that is not watched costs nothing."""

    def __init__(self, net: Net, mesh: Mesh) -> None:
        self._mesh = mesh
        self._layers = net.layers()
        self._held = len(self._layers[0].towers)
        self._sums = torch.zeros(0)
        self._alive: dict[tuple[int, int], torch.Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it the forward and backward passes of one step are watched."""
        self._sums = torch.zeros(len(self._layers), self._held, _SUMS, dtype=torch.float64, device=self._mesh.device)
        self._alive = {}
        hooks = [layer.register_forward_hook(self._outputs) for layer in self._layers]
        for layer in self._layers:
            layer.watch = partial(self._look, layer)
        try:
            yield
        finally:
            for layer, hook in zip(self._layers, hooks, strict=True):
                layer.watch = None
                hook.remove()

    def read(self) -> dict[str, dict[str, list[float]]]:
        """Of each layer by name, a list with a figure for each tower of the net; every rank takes part and gets the same.

        `activation`: root mean square of the layer's outputs, behind all its operations. `gradient`: root mean square of the
        gradient of the step's loss (the mean over the images of all replicas) with respect to them. `saturated`: the share of the
        outputs of a tanh or sigmoid that are beyond SATURATED. `dead`: the share of a ReLU's units that are zero for all
        images of the step; a unit of a convolution is a filter with its whole map. A layer without such an activation has 0.
        """
        dist.all_reduce(self._sums, group=self._mesh.replica_group)
        dead = torch.zeros(len(self._layers), self._held, dtype=torch.float64, device=self._mesh.device)
        for (position, tower), alive in sorted(self._alive.items()):
            dist.all_reduce(alive, dist.ReduceOp.MAX, group=self._mesh.replica_group)
            dead[position, tower] = 1 - alive.double().mean()
        squares, outputs, gradients, saturated, units = self._sums.unbind(dim=2)
        figures = {
            "activation": (squares / outputs).sqrt(),
            "gradient": (gradients / outputs).sqrt(),
            "saturated": saturated / units.clamp_min(1),
            "dead": dead,
        }
        whole = {name: self._mesh.gather_columns(part).tolist() for name, part in figures.items()}
        return {
            layer.layer.name: {name: rows[position] for name, rows in whole.items()}
            for position, layer in enumerate(self._layers)
        }

    def _outputs(self, layer: TowerLayer, _: Any, outputs: list[torch.Tensor]) -> None:
        for sums, output in zip(self._sums[layer.position], outputs, strict=True):
            sums[0] += _squares(output.detach())
            sums[1] += output.numel()
            output.register_hook(partial(_add_gradient, sums))

    def _look(self, layer: TowerLayer, kind: str, tower: int, outputs: torch.Tensor) -> None:
        held = tower - layer.towers.start
        outputs = outputs.detach()
        if kind == "relu":
            others = [dimension for dimension in range(outputs.dim()) if dimension != 1]
            alive = (outputs > 0).any(dim=others).to(torch.uint8)
            before = self._alive.get((layer.position, held))
            self._alive[layer.position, held] = alive if before is None else alive | before
            return
        centred = 2 * outputs - 1 if kind == "sigmoid" else outputs
        sums = self._sums[layer.position, held]
        sums[3] += (centred.abs() > SATURATED).sum()
        sums[4] += outputs.numel()


def _add_gradient(sums: torch.Tensor, gradient: torch.Tensor) -> None:
    sums[2] += _squares(gradient)


def _squares(values: torch.Tensor) -> torch.Tensor:
    return values.float().square().sum(dtype=torch.float64)
