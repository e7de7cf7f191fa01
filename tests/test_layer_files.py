"""The authors' runs value by value: shapes, initial deviations, and rates by layer and phase, as their files have them.

The files are those of computerhistory/AlexNet-Source-Code, commit 2f8b81f: layers/layers-<number>.cfg for what a net is, and
layers/layer-params-<number>.cfg with the log at its end for how it was trained. The numbers below are theirs.
"""

import pytest
import torch

from alexnet_dist.checks import check_settings
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.settings import Settings
from alexnet_dist.training.update import MomentumSGD, Schedule

RUNS = ("net145", "net146", "net147", "net148", "net150", "net145_half")
NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7", "fc8")

# Of one GPU: filters (outputs), channels of each input, how many inputs, filterSize, stride, padding, initW, initB, and positions
# after the layer's pooling. conv1's padding of 0 lets its last window hang over the edge (src/layer.cu takes zeros there).
NET145 = {
    "conv1": (48, 3, 1, 11, 4, 0, 0.01, 0, 27),
    "conv2": (128, 48, 1, 5, 1, 2, 0.01, 1, 13),
    "conv3": (192, 128, 2, 3, 1, 1, 0.03, 0, 13),
    "conv4": (192, 192, 1, 3, 1, 1, 0.03, 1, 13),
    "conv5": (128, 192, 1, 3, 1, 1, 0.03, 1, 6),
    "fc6": (2048, 128 * 36, 2, 1, 1, 0, 0.01, 1, 1),
    "fc7": (2048, 2048, 2, 1, 1, 0, 0.01, 1, 1),
    "fc8": (1000, 2048, 2, 1, 1, 0, 0.01, 0, 1),
}
NETS = {
    "net145": NET145,
    "net146": NET145 | {"conv6": (128, 128, 2, 3, 1, 1, 0.03, 1, 6)},
    "net147": NET145
    | {
        "conv1": (48, 3, 1, 11, 4, 0, 0.01, 0, 28),
        "conv2": (128, 48, 1, 5, 1, 1, 0.01, 1, 13),
        "conv5": (128, 192, 1, 3, 1, 0, 0.03, 1, 6),
    },
    "net148": NET145,
    "net150": NET145
    | {
        "conv2": (160, 48, 1, 5, 1, 2, 0.01, 1, 13),
        "conv3": (192, 160, 1, 3, 1, 1, 0.03, 0, 13),
        "fc6": (4096, 128 * 36, 1, 1, 1, 0, 0.01, 1, 1),
        "fc7": (2048, 4096, 1, 1, 1, 0, 0.01, 1, 1),
    },
    "net145_half": NET145
    | {
        "conv3": (192, 128, 1, 3, 1, 1, 0.03, 0, 13),
        "conv5": (256, 192, 1, 3, 1, 1, 0.03, 1, 6),
        "fc6": (4096, 256 * 36, 1, 1, 1, 0, 0.01, 1, 1),
        "fc7": (4096, 4096, 1, 1, 1, 0, 0.01, 1, 1),
        "fc8": (1000, 4096, 1, 1, 1, 0, 0.01, 0, 1),
    },
}
# What follows each convolution: neuron= of the layer itself, then cmrnorm, rnorm and pool with their own neuron=.
FOLLOWED = {
    "conv1": ["response_norm", "max_pool", "relu"],
    "conv2": ["relu", "response_norm", "spatial_norm", "max_pool"],
    "conv5": ["max_pool", "relu"],
}

# From an epoch on: epsW and epsB of all layers, those of single layers (0 skips a layer's update: src/weights.cu), colour noise.
PHASES = {
    "net145": [
        (0, 0.01, 0.02, {}, True),
        (25, 0.001, 0.02, {}, True),
        (51, 0.0001, 0.02, {}, True),
        (67, 0.0001, 0.02, {"conv1": (0.00001, 0.02)}, False),
        (72, 0.0001, 0.02, {"conv1": (0, 0)}, False),
        (79, 0.00001, 0.02, {"conv1": (0, 0)}, False),
    ],
    "net146": [
        (0, 0.001, 0.02, {"conv1": (0.0001, 0.02), "conv6": (0.001, 0.022)}, True),
        (0.24, 0.001, 0.02, {"conv1": (0.0001, 0.02), "conv6": (0.001, 0.022), "fc8": (0.01, 0.02)}, True),
        (5, 0.001, 0.02, {"conv1": (0.00001, 0.02), "conv6": (0.001, 0.022), "fc8": (0.01, 0.02)}, True),
        (7, 0.001, 0.02, {"conv1": (0, 0), "conv6": (0.001, 0.022), "fc8": (0.01, 0.02)}, True),
        (9, 0.001, 0.02, {"conv1": (0, 0), "conv6": (0.001, 0.022)}, True),
        (22, 0.0001, 0.02, {"conv1": (0, 0), "conv6": (0.0001, 0.022)}, True),
        (38, 0.0001, 0.02, {"conv1": (0, 0), "conv6": (0.0001, 0.022)}, False),
        (42, 0.00001, 0.02, {"conv1": (0, 0), "conv6": (0.00001, 0.022)}, False),
    ],
    "net147": [
        (0, 0.01, 0.02, {}, True),
        (23, 0.001, 0.02, {}, True),
        (51, 0.0001, 0.02, {}, True),
        (79, 0.00001, 0.002, {"conv1": (0, 0)}, True),
    ],
    "net148": [
        (0, 0.01, 0.02, {}, True),
        (22, 0.001, 0.02, {}, True),
        (44, 0.0001, 0.02, {}, True),
        (69, 0.0001, 0.02, {"conv1": (0.00001, 0.02)}, False),
        (73, 0.0001, 0.02, {"conv1": (0, 0)}, False),
        (86, 0.00001, 0.02, {"conv1": (0, 0)}, False),
    ],
    "net150": [
        (0, 0.01, 0.02, {}, True),
        (25, 0.001, 0.02, {}, True),
        (49, 0.0001, 0.02, {}, True),
        (66, 0.0001, 0.02, {"conv1": (0.00001, 0.02)}, False),
        (72, 0.0001, 0.02, {"conv1": (0, 0)}, False),
        (79, 0.00001, 0.02, {"conv1": (0, 0)}, False),
    ],
    "net145_half": [
        (0, 0.01, 0.02, {"conv1": (0.01, 0.002), "conv2": (0.01, 0.002)}, True),
        (20, 0.001, 0.02, {"conv1": (0.001, 0.002), "conv2": (0.001, 0.002)}, True),
        (48, 0.0001, 0.02, {"conv1": (0.0001, 0.002), "conv2": (0.0001, 0.002)}, True),
        (66, 0.0001, 0.02, {"conv1": (0.00001, 0.002), "conv2": (0.0001, 0.002)}, False),
        (72, 0.0001, 0.02, {"conv1": (0, 0), "conv2": (0.0001, 0.002)}, False),
    ],
}
KILLED = {"net145": 91, "net146": 54, "net147": 90, "net148": 97, "net150": 92, "net145_half": 96}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> tuple[str, Settings]:
    return request.param, check_settings(compose("train", [f"experiment={request.param}", "data.root=images"]))


def test_the_table_is_that_of_the_layer_file(run: tuple[str, Settings]) -> None:
    name, settings = run
    table = settings.table()
    assert table.towers == (1 if name == "net145_half" else 2)
    assert [layer.name for layer in table.layers] == [layer for layer in NAMES if layer in NETS[name]]
    for layer in table.layers:
        filters, channels, inputs, kernel, stride, padding, init_w, init_b, out = NETS[name][layer.name]
        # fc1000 stands on one GPU alone.
        assert layer.filters == filters * (1 if layer.name == "fc8" else table.towers), layer.name
        assert layer.fan_in == channels * inputs * kernel**2, layer.name
        assert (layer.kernel, layer.stride, layer.pad) == (kernel, stride, padding), layer.name
        assert (layer.weight_std, layer.bias, layer.out_size) == (init_w, init_b, out), layer.name
        followed = ["relu", "dropout"] if layer.name in ("fc6", "fc7") else FOLLOWED.get(layer.name, ["relu"])
        if name == "net148":
            followed = [kind for kind in followed if not kind.endswith("norm")]
        kinds = [operation.kind for operation in layer.then if operation.kind != "identity"]
        assert kinds == ([] if layer.name == "fc8" else followed), layer.name


def test_poolings_are_of_the_layer_file(run: tuple[str, Settings]) -> None:
    name, settings = run
    table = settings.table()
    pools = [operation.options for layer in table.layers for operation in layer.then if operation.kind == "max_pool"]
    size_x = 2 if name == "net147" else 3
    assert [(pool["kernel"], pool["stride"], pool["pad"]) for pool in pools] == 3 * [(size_x, 2, 0)]
    if name == "net147":  # positions before each pooling: 55, then 26 = 28 + 2 - 5 + 1, and 11 = 13 - 3 + 1
        assert [layer.conv_size for layer in table.layers[:5]] == [55, 26, 13, 13, 11]


def test_each_phase_has_the_rates_of_the_layer_file_and_its_log(run: tuple[str, Settings]) -> None:
    name, settings = run
    with torch.device("meta"):
        net = Net(settings.table())
    optimizer, schedule = MomentumSGD(net, settings.optimizer), Schedule(settings.schedule, settings.optimizer.lr)
    assert settings.trainer.epochs == KILLED[name]
    assert (settings.data.mean, settings.data.colour_divisor, settings.trainer.batch_size) == ("centre", 1.1, 128)
    ends = [phase[0] for phase in PHASES[name][1:]] + [KILLED[name]]
    for (begins, eps_w, eps_b, single, colour), ends_at in zip(PHASES[name], ends, strict=True):
        for epoch in (begins, (begins + ends_at) / 2, ends_at - 1e-6):
            phase = schedule.phase(epoch)
            assert (phase.colour is not False) == colour, epoch
            optimizer.set_rates(schedule.learning_rate(epoch), phase)
            rules = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
            for layer in net.children():
                expected = single.get(layer.layer.name, (eps_w, eps_b))
                for parameter, eps, decay in ((layer.weight, expected[0], 0.0005), (layer.bias, expected[1], 0.0)):
                    rule = rules.get(id(parameter))
                    if eps == 0:
                        assert rule is None, (layer.layer.name, epoch)
                    else:
                        assert rule is not None, (layer.layer.name, epoch)
                        assert rule["lr"] == pytest.approx(eps, rel=1e-12), (layer.layer.name, epoch)
                        assert (rule["momentum"], rule["weight_decay"]) == (0.9, decay), layer.layer.name


def test_the_net_as_published_has_one_rate_for_all_layers() -> None:
    # "We used an equal learning rate for all layers" (paper, section 5)
    settings = check_settings(compose("train", ["experiment=paper", "data.root=images"]))
    with torch.device("meta"):
        optimizer = MomentumSGD(Net(settings.table()), settings.optimizer)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}
    assert (settings.data.mean, settings.data.colour_divisor) == ("aligned", 1)
