"""The table: the paper's figures follow from it, and what cannot be is refused by the layer's name."""

import copy
import re
from typing import Any

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import _TAKEN, Table, build_table


def _config(model: str) -> dict[str, Any]:
    return compose("train", [f"model={model}"])["model"]


def _layers(table: Table) -> dict[str, tuple[int, int, int, int]]:
    """Name -> maps a tower, size before and after the operations, bytes crossed."""
    return {
        layer.name: (layer.filters // table.towers, layer.conv_size, layer.out_size, layer.crossing_bytes)
        for layer in table.layers
    }


def test_the_paper_s_net_has_the_paper_s_figures() -> None:
    table = build_table(_config("paper"))
    assert table.parameters == 60_965_224
    assert round(table.multiply_adds / 1e6) == 724
    assert table.training_flops / 1e9 == pytest.approx(4.13, abs=0.01)
    assert _layers(table) == {
        "conv1": (48, 55, 27, 0),
        "conv2": (128, 27, 13, 0),
        "conv3": (192, 13, 13, 128 * 13 * 13 * 4),
        "conv4": (192, 13, 13, 0),
        "conv5": (128, 13, 6, 0),
        "fc6": (2048, 1, 1, 128 * 6 * 6 * 4),
        "fc7": (2048, 1, 1, 2048 * 4),
        "fc8": (500, 1, 1, 2048 * 4),
    }
    assert table.parameter_shapes()["conv2.weight"] == [256, 48, 5, 5]


@pytest.mark.parametrize("model", ["paper", "net145", "caffe", "torchvision", "cifar10", "tiny"])
def test_a_net_has_the_parameters_its_table_says(model: str) -> None:
    table = build_table(_config(model))
    net = Net(table)
    assert {name: list(p.shape) for name, p in net.named_parameters()} == table.parameter_shapes()
    assert sum(p.numel() for p in net.parameters()) == table.parameters


@pytest.mark.parametrize("name", ["half", "type", "share", "table", "mean", "class"])
def test_a_layer_is_not_called_as_a_part_of_the_net_is(name: str) -> None:
    config = _config("tiny")
    config["layers"] = {{"fc6": name}.get(own, own): row for own, row in config["layers"].items()}
    with pytest.raises(UserError, match=f"layer {name}: .* call the layer {name}1$"):
        build_table(config)


def test_every_name_that_the_net_has_is_taken() -> None:
    net = Net(build_table(_config("tiny")))
    names = {name for name in dir(net) if re.fullmatch(r"[a-z][a-z0-9_]*", name)}
    assert names - _TAKEN == {layer.layer.name for layer in net.layers()}


def test_a_crossing_is_cut_by_one_override() -> None:
    table = build_table(compose("train", ["model=paper", "model.layers.conv3.reads=own"])["model"])
    conv3 = table.layers[2]
    assert (conv3.crossing_bytes, conv3.weight_shape) == (0, (384, 128, 3, 3))


def test_norms_that_read_all_towers_send_the_maps_at_their_edges() -> None:
    table = build_table(_config("caffe"))
    assert [layer.crossing_bytes for layer in table.layers[:3]] == [4 * 55 * 55 * 4, 4 * 27 * 27 * 4, 128 * 13 * 13 * 4]
    one_tower = build_table(compose("train", ["model=caffe", "model.towers=1"])["model"])
    assert [layer.crossing_bytes for layer in one_tower.layers[:2]] == [0, 0]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("layers.conv3.filters", 97, "layer conv3 has 97 filters"),
        ("layers.conv1.kernel", 500, "layer conv1"),
        ("operations.pool.kernel", 40, "shrinks below one pixel in pool"),
        ("layers.conv4.strides", 1, "layer conv4 has the unknown key 'strides'"),
        ("layers.conv2.reads", "image", "layer conv2 has reads 'image'"),
        ("layers.fc6.then", ["relu", "drop"], "layer fc6 is followed by 'drop'"),
        ("layers.fc7.then", ["lrn"], "layer fc7 is fully connected"),
        ("layers.fc8.then", ["relu"], "layer fc8 is the last"),
        ("layers.conv5.weight_std", -1, "layer conv5 has weight_std -1"),
        ("layers.conv5.filters", None, "layer conv5 has filters None"),
        ("layers.conv5.filters", 2.5, "layer conv5 has filters 2.5"),
        ("layers.conv1", {"kind": "conv", "reads": "image"}, "layer conv1 needs filters"),
        ("layers.conv2", 5, "layer conv2 is 5 and not a set of keys"),
        ("layers", {}, "the model has layers {}"),
        ("operations.lrn.size", 4, "operation lrn has size 4"),
        ("operations.lrn.reads", "some", "operation lrn has reads 'some'"),
        ("operations.lrn", {"size": 5}, "operation lrn needs kind"),
        ("operations.pool.pad", 2, "operation pool has pad 2, more than half its kernel 3"),
        ("operations.pool.pad", True, "operation pool has pad True"),
        ("operations.pool.round", "sideways", "operation pool has round 'sideways'"),
        ("layers.conv2.weight_std", "she", "layer conv2 has weight_std 'she'"),
        ("operations.pool.rounds", "up", "operation pool has the unknown key 'rounds'"),
        ("operations.lrn.kind", "batchnorm", "operation lrn has kind 'batchnorm'"),
        ("operations.dropout.p", 1.0, "operation dropout has p 1.0"),
        ("operations.lrn", {"kind": "response_norm", "reads": "all", "size": 99, "alpha": 1, "beta": 1, "k": 1}, "48 maps a"),
        ("towers", 3, "layer conv2 has 256 filters, which 3 towers do not divide"),
        ("colour", "red", "the model has the unknown key 'colour'"),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_name(path: str, value: Any, said: str) -> None:
    config = copy.deepcopy(_config("paper"))
    node, *keys = config, *path.split(".")
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    with pytest.raises(UserError, match=said.replace("'", ".")):
        build_table(config)
