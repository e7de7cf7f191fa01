"""The gradients of a step, added in a fixed binary tree over its slices, whichever process computes them."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from alexnet_dist.parallel.ordered_sum import OrderedSum


class Gradients:
    """What the backward passes of a replica's slices leave is added here, and over the replicas, while they go on.

    A step has `slices` backward passes here, one after another. A layer's gradient of a slice is added to that of its neighbour,
    and pairs to pairs, as soon as both are there: of a parameter at most 1 + log2(slices) gradients are held. In the last
    pass a layer's sum goes on to the other replicas while the layers below it are computed. `finish` leaves the whole step's
    gradients in `grad`.
    """

    def __init__(self, layers: Sequence[nn.Module], slices: int, over_replicas: OrderedSum) -> None:
        self._slices = slices
        self._over_replicas = over_replicas
        self._slice = 0
        self._sums: dict[nn.Parameter, list[torch.Tensor]] = {}
        self._ready: list[set[nn.Parameter]] = []
        for layer in layers:
            own = list(layer.parameters())
            ready: set[nn.Parameter] = set()
            self._ready.append(ready)
            for parameter in own:
                self._sums[parameter] = []
                hook = partial(self._add, of_layer=own, ready=ready)
                parameter.register_post_accumulate_grad_hook(hook)

    def begin(self) -> None:
        """A step begins. What one that was broken off has left is dropped."""
        self._slice = 0
        for parameter, sums in self._sums.items():
            parameter.grad = None
            sums.clear()
        for ready in self._ready:
            ready.clear()
        self._over_replicas.drop()

    def next_slice(self) -> None:
        """A backward pass is done."""
        self._slice += 1

    def finish(self) -> None:
        """After the last backward pass: until the gradients of all replicas are added."""
        self._over_replicas.finish()

    def _add(self, parameter: nn.Parameter, of_layer: list[nn.Parameter], ready: set[nn.Parameter]) -> None:
        """Take a slice's gradient. A layer's go on together and in their order: what autograd finishes first may differ."""
        assert parameter.grad is not None
        total, parameter.grad = parameter.grad, None
        sums, place = self._sums[parameter], self._slice
        while place & 1:  # a sum of as many slices is waiting
            total = sums.pop().add_(total)
            place >>= 1
        sums.append(total)
        ready.add(parameter)
        if len(ready) < len(of_layer):
            return
        ready.clear()
        if self._slice == self._slices - 1:
            for each in of_layer:
                each.grad = self._sums[each].pop()
                self._over_replicas.begin(each.grad)
