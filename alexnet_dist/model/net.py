"""The net, or a share of it, made from the table."""

import torch
from torch import nn

from alexnet_dist.model.dropout import DropoutKey
from alexnet_dist.model.layers import Crossing, TowerLayer
from alexnet_dist.model.share import WHOLE, Share
from alexnet_dist.model.table import Table


class Net(nn.Module):
    """The share of a table's net that one process holds.

    Its parameters carry the whole net's names (`conv1.weight`); a share holds `share.rows` of dimension 0 of each. Before
    a layer that reads all towers it calls `crossing`, and so does a norm that does. A share that is the whole net needs none.

    Raises:
        ValueError: the shares do not divide the towers, or a part of the net was given no crossing.
    """

    def __init__(self, table: Table, share: Share = WHOLE, crossing: Crossing | None = None) -> None:
        super().__init__()
        if table.towers % share.count:
            raise ValueError(f"{table.towers} towers cannot be held in {share.count} equal shares")
        if share.count > 1 and crossing is None:
            raise ValueError("a share that is not the whole net needs a crossing")
        self.table = table
        self.share = share
        self.crossing = crossing
        for position, layer in enumerate(table.layers):
            self.add_module(layer.name, TowerLayer(layer, position, share))

    def initialise(self, seed: int) -> None:
        """Set all parameters as the table says; the same whole net for every share."""
        for layer in self.children():
            assert isinstance(layer, TowerLayer)
            layer.initialise(seed)

    def forward(self, images: torch.Tensor, key: DropoutKey | None = None) -> list[torch.Tensor]:
        """Float images [N, 3, H, W] -> for each tower held, the logits [N, classes / towers] of its classes.

        With a key, units are dropped (training); without, outputs are scaled (testing).
        """
        held = self.table.towers // self.share.count
        maps = [images] * held
        for layer in self.children():
            assert isinstance(layer, TowerLayer)
            if layer.layer.reads == "all":
                # Gradients of what several towers read are added where it was joined, in the crossing or here.
                part = maps[0] if held == 1 else torch.cat(maps, dim=1)
                maps = [part if self.crossing is None else self.crossing(part)] * held
            maps = layer(maps, key, self.crossing)
        return maps
