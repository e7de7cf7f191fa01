"""The plain module's logits are the net's, for every operation that a table knows."""

import pytest
import torch

from alexnet_dist.formats.module import build, source_of
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table

APART = [f"model.layers.{name}.reads=own" for name in ("conv3", "fc6", "fc7", "fc8")]
ODD = [
    "model.layers.conv1.pad=0",
    "+model.layers.conv1.pad_end=3",
    "+model.operations.norm={kind: spatial_norm, size: 5, alpha: 1e-3, beta: 0.75, k: 1}",
    "+model.operations.mean={kind: avg_pool, kernel: 3, stride: 2, pad: 1}",
    "model.layers.conv1.then=[lrn,pool,relu]",
    "model.layers.conv2.then=[relu,lrn,norm,mean]",
    "model.operations.dropout.p=0.3",
]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ODD,
        APART,
        ["model.towers=4"],
        ["model.towers=1"],
        ["+model.operations.lrn.reads=all"],
        ["model.operations.relu.kind=tanh", "model.operations.lrn.kind=identity"],
        ["model.operations.relu.kind=sigmoid"],
        ["model=cifar10"],
    ],
    ids=lambda overrides: " ".join(overrides)[:40],
)
def test_the_plain_module_gives_the_net_s_logits(overrides: list[str]) -> None:
    table = build_table(compose("train", ["model=tiny", *overrides])["model"])
    net = Net(table)
    net.initialise(3)
    generator = torch.Generator().manual_seed(1)
    images = 255 * torch.rand(3, 3, table.input_size, table.input_size, generator=generator)
    mean = 120 + 9 * torch.rand(images.shape[1:], generator=generator)
    plain = build(source_of(table, "net", "a net", "images"), dict(net.named_parameters()), mean)
    with torch.inference_mode():
        expected = torch.cat(net(images - mean), dim=1)
        assert torch.allclose(plain(images), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-3
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in net.named_parameters()]


def test_what_a_name_or_a_path_says_is_not_run() -> None:
    table = build_table(compose("train", ["model=tiny"])["model"])
    said = 'x"""\nraise SystemExit(3)\n""" C:\\new'
    namespace = {"__file__": "net.py", "__name__": "net"}
    exec(source_of(table, "net", said, said), namespace)
    assert str(namespace["__doc__"]).count(said) == 2
