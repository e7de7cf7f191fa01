"""What a step is said to cost: the table's arithmetic, and the maps that autograd really keeps."""

import pytest
import torch

from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.cost import costs
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table, build_table


def _table(*overrides: str) -> Table:
    return build_table(compose("train", list(overrides))["model"])


@pytest.mark.parametrize("model", ["paper", "net145", "tiny", "cifar10", "caffe"])
def test_the_layers_flops_add_up_to_the_table_s(model: str) -> None:
    table = _table(f"model={model}")
    assert sum(cost.training_flops for cost in costs(table)) == table.training_flops


@pytest.mark.parametrize("model", ["paper", "net145", "tiny"])
def test_what_is_said_to_be_kept_for_the_backward_pass_is_what_autograd_keeps(model: str) -> None:
    table, images = _table(f"model={model}"), 4
    net = Net(table)
    net.initialise(0)
    parameters = {parameter.data_ptr() for parameter in net.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(images, 3, table.input_size, table.input_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = net(x, DropoutKey(0, 0))
    assert made[0].requires_grad
    sizes.pop(x.untyped_storage().data_ptr(), None)
    said = 4 * images * sum(cost.kept + cost.joined for cost in costs(table))
    assert said == pytest.approx(sum(sizes.values()), rel=0.25)
