"""How large a net's weights are and how far the last update moved them, as the authors' program prints at every test."""

import torch

from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh


def layer_sizes(net: Net, optimizer: torch.optim.Optimizer, mesh: Mesh) -> dict[str, dict[str, list[float]]]:
    """For each layer mean |weight| and mean |update| of each tower, the same on every rank; every rank takes part.

    The update is what a step adds to the weight, which is the velocity (training/update.py): that of the last one that was not
    left out, and 0 of a layer that is frozen.
    """
    moves = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    own = []
    for layer in net.layers():
        velocity = optimizer.state[layer.weight]["momentum_buffer"]
        for tensor in (layer.weight.detach(), velocity if layer.weight in moves else torch.zeros_like(velocity)):
            own.append(tensor.abs().unflatten(0, (len(layer.towers), -1)).flatten(1).mean(dim=1))
    shares = mesh.from_everyone(torch.stack(own).tolist())[: mesh.layout.shares]
    by_tower = [[size for share in shares for size in share[row]] for row in range(len(own))]
    rows = zip(net.table.layers, by_tower[::2], by_tower[1::2], strict=True)
    return {layer.name: {"weight": weight, "update": update} for layer, weight, update in rows}
