"""The gradients of a step's slices are added in the order of a binary tree."""

import torch
import torch.distributed as dist
from torch import nn

from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.parallel.ordered_sum import tree_sum
from alexnet_dist.training.gradients import Gradients


def test_the_sum_has_the_bits_of_the_tree_and_no_others() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 30)
    # Of sizes so different that every order of adding has bits of its own.
    batches = [torch.randn(16, 40) * 10.0 ** (number % 3) for number in range(8)]
    alone = []
    for batch in batches:
        layer(batch).square().sum().backward()
        alone.append(layer.weight.grad)
        layer.zero_grad()
    with join_mesh(1, torch.device("cpu"), timeout=60) as mesh:
        gradients = Gradients([layer], len(batches), mesh.over_replicas)
        for broken_off in (3, 0):  # a second step begins anew, wherever the first ended
            gradients.begin()
            for batch in batches:
                layer(batch).square().sum().backward()
                gradients.next_slice()
            gradients.finish()
            assert torch.equal(layer.weight.grad, tree_sum(alone))
            gradients.begin()
            for batch in batches[:broken_off]:
                layer(batch).square().sum().backward()
                gradients.next_slice()
    assert not dist.is_initialized()
    one_after_another = alone[0].clone()
    for gradient in alone[1:]:
        one_after_another += gradient
    assert not torch.equal(one_after_another, tree_sum(alone))
