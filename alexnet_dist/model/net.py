"""The net, or a share of it, made from the table."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.model.copies import Copy
from alexnet_dist.model.layers import TowerLayer
from alexnet_dist.model.products import Alone, Crossing
from alexnet_dist.model.share import Share
from alexnet_dist.model.table import Table


class Net(nn.Module):
    """The share of a table's net that one process holds: the one that `crossing` joins to the others, or the whole net.

    Its parameters carry the whole net's names (`conv1.weight`); a share holds `share.rows` of dimension 0 of each. Before
    a layer that reads all towers it calls `crossing`, and so does a norm that does.
    `native`: what follows the products is done by the fused operations of the device, within rounding of torch's.

    Raises:
        ValueError: the shares do not divide the towers.
    """

    def __init__(self, table: Table, crossing: Crossing | None = None, native: bool = False) -> None:
        super().__init__()
        self.table = table
        self.native = native
        self.crossing = crossing or Alone()
        self.share = Share(self.crossing.index, self.crossing.size)
        for position, layer in enumerate(table.layers):
            self.add_module(layer.name, TowerLayer(layer, position, self.share, native))

    def initialise(self, seed: int) -> None:
        """Set all parameters as the table says; the same whole net for every share."""
        for layer in self.layers():
            layer.initialise(seed)

    def layers(self) -> list[TowerLayer]:
        return [layer for layer in self.children() if isinstance(layer, TowerLayer)]

    def keep_copies(self, dtype: torch.dtype, narrow_gradients: bool) -> dict[torch.Tensor, Copy]:
        """From now on products of `dtype` read copies of the weights, which lie channels last; with `narrow_gradients` the
        weights' gradients stay of that dtype. Returns the copies, for who updates the weights."""
        return {layer.weight: layer.keep_copy(dtype, narrow_gradients) for layer in self.layers()}

    @property
    def towers_held(self) -> int:
        """How many towers this share has."""
        return len(self.layers()[0].towers)

    @property
    def image_dtype(self) -> torch.dtype:
        """What images are best given as."""
        copy = self.layers()[0].copy
        return copy.tensor.dtype if copy else torch.float32

    def forward(self, images: torch.Tensor, key: DropoutKey | None = None) -> list[torch.Tensor]:
        """Float images [N, 3, H, W] -> for each tower held, the logits [N, classes / towers] of its classes.

        With a key, units are dropped (training); without, outputs are scaled (testing).
        """
        maps = [images] * self.towers_held
        for layer in self.children():
            maps = layer(maps, key, self.crossing)
        return maps


@contextmanager
def outputs_of(net: Net, *layers: str) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Within it what each of these layers last handed on, by its name: a tensor for each tower held."""
    made: dict[str, list[torch.Tensor]] = {}
    with ExitStack() as hooks:
        for name in layers:
            layer = net.get_submodule(name)
            hooks.enter_context(layer.register_forward_hook(lambda _, __, outputs, name=name: made.update({name: outputs})))
        yield made
