"""The layers that a share of the net is made of."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import nn

from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.kernels.steps import Step, by_torch, follow, join, on_gpu
from alexnet_dist.model.copies import Copy
from alexnet_dist.model.products import Crossing, products, together
from alexnet_dist.model.share import Share
from alexnet_dist.model.table import Layer, Operation

# Below 2^32: torch's generator takes no more of a seed than 32 bits.
_LARGEST_PRIME = 2**32 - 5


class TowerLayer(nn.Module):
    """A convolution or a full connection with what follows it, for the towers of `share`.

    It holds the share's rows of weight and bias, and computes tower by tower, each with its own rows: what a tower computes is
    the same, to the bit, whether it has a process of its own or not.
    """

    def __init__(self, layer: Layer, position: int, share: Share, native: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.position = position
        self._native = native
        self._steps = _steps(layer.then)
        self.towers = range(layer.towers)[share.rows(layer.towers)]
        rows = share.rows(layer.filters)
        self.weight = nn.Parameter(torch.empty(rows.stop - rows.start, *layer.weight_shape[1:]))
        self.bias = nn.Parameter(torch.empty(rows.stop - rows.start))
        self.copy: Copy | None = None
        first = self._steps[0] if self._steps else None
        self._adds_bias = isinstance(first, Step) and first.adds_bias
        # Called with each activation's kind, tower and output, while somebody watches.
        self.watch: Callable[[str, int, torch.Tensor], None] | None = None

    def initialise(self, seed: int) -> None:
        """Draw N(0, weight_std) weights and set constant biases (paper, section 5).

        A generator for each (seed, layer, tower) makes the weights the same whatever the share.
        """
        with torch.no_grad():
            for tower, weight in zip(self.towers, self.weight.chunk(len(self.towers)), strict=True):
                own = (seed * 1_000 + self.position) * 1_000 + tower
                generator = torch.Generator().manual_seed(own % _LARGEST_PRIME)
                weight.copy_(torch.randn(weight.shape, generator=generator) * self.layer.weight_std)
            self.bias.fill_(self.layer.bias)

    def forward(self, inputs: Sequence[torch.Tensor], key: DropoutKey | None, crossing: Crossing) -> list[torch.Tensor]:
        """The maps of each held tower [N, C, H, W] or [N, units] (before the first layer the images) -> what each makes of those
        that it reads: [N, filters / towers, H', W'] or [N, filters / towers]."""
        bias_follows = self._native and on_gpu(inputs[0]) and self._adds_bias
        copy = self.copy.read() if self.copy else None
        maps = products(self.layer, self.towers, inputs, self.weight, None if bias_follows else self.bias, crossing, copy)
        bias = self.bias if bias_follows else None  # what the next step adds
        for step in self._steps:
            if isinstance(step, Operation):
                maps = self._norm_across_towers(step, maps, crossing)
                continue
            whole = together(maps) if len(maps) > 1 else None
            if bias_follows and whole is not None and step.each_value and not self.watch:
                masks = key.of(self.position, self.towers.start * maps[0].shape[1]) if key else None
                maps = list(follow(whole, step, self._native, bias, masks).chunk(len(maps), dim=1))
            else:
                biases = [bias] * len(maps) if bias is None or len(maps) == 1 else bias.chunk(len(maps))
                for held, (x, added, tower) in enumerate(zip(maps, biases, self.towers, strict=True)):
                    masks = key.of(self.position, tower * x.shape[1]) if key else None
                    maps[held] = follow(x, step, self._native, added, masks)
                    if self.watch and step.activation:
                        self.watch(step.activation, tower, by_torch(x.detach(), Step(step.activation), None, added))
                    if self.watch and step.relu_last:
                        self.watch("relu", tower, maps[held])
            bias = None
        return maps

    def keep_copy(self, dtype: torch.dtype, narrow_gradient: bool) -> Copy:
        """From now on products of `dtype` read a copy of the weight, which lies channels last; with `narrow_gradient` the
        weight's gradient stays of that dtype too."""
        if self.layer.kind == "conv":
            self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)
        if narrow_gradient:
            self.weight.grad_dtype = dtype
        self.copy = Copy(self.weight, dtype)
        return self.copy

    def _norm_across_towers(self, operation: Operation, maps: list[torch.Tensor], crossing: Crossing) -> list[torch.Tensor]:
        """The response norm as if the maps of all towers lay in one; of the other towers the maps at the edges are fetched."""
        reach = operation.reach
        edges = torch.cat([edge for x in maps for edge in (x[:, :reach], x[:, x.shape[1] - reach :])], dim=1)
        first_and_last = crossing(edges).chunk(2 * self.layer.towers, dim=1)
        outputs = []
        for tower, x in zip(self.towers, maps, strict=True):
            before = first_and_last[2 * tower - 1 : 2 * tower]
            after = first_and_last[2 * tower + 2 : 2 * tower + 3]
            around = torch.cat([*before, x, *after], dim=1)
            normed = follow(around, join([(operation.kind, operation.options)])[0], self._native)
            outputs.append(normed[:, len(before) * reach :][:, : x.shape[1]])
        return outputs


def _steps(operations: Sequence[Operation]) -> list[Step | Operation]:
    """What a tower does by itself, in steps; between them the norms that read all towers."""
    steps: list[Step | Operation] = []
    for reads, group in groupby(operations, key=lambda operation: operation.reads):
        alike = list(group)
        steps += alike if reads == "all" else join([(operation.kind, operation.options) for operation in alike])
    return steps
