"""A training step of model=paper in bf16 as a GPU takes it, on tensors that hold nothing: one operation each, and how many."""

from contextlib import nullcontext

import pytest
import torch

from alexnet_dist.bench.tally import Tally
from alexnet_dist.kernels.launches import LAUNCHES
from alexnet_dist.kernels.preprocess import preprocess
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.dropout import DropoutKey
from alexnet_dist.model.net import Net
from alexnet_dist.model.share import Share
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.imagined import imagined_mesh
from alexnet_dist.parallel.loss import split_cross_entropy
from alexnet_dist.parallel.mesh import plan_layout
from alexnet_dist.settings import OptimizerSettings
from alexnet_dist.training.step import narrow_copies
from alexnet_dist.training.update import build_optimizer

BATCH = 128
UPDATE = OptimizerSettings(lr=0.01, momentum=0.9, weight_decay=5e-4, bias_lr_multiplier=2, bias_weight_decay=False)


@pytest.fixture(autouse=True)
def _bf16_of_meta_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast knows no meta tensors: products ask for its dtype, which is bf16."""
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda kind: True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def test_a_tower_s_step_is_ninety_launches_and_sixteen_megabytes_an_image_at_most() -> None:
    table = build_table(compose("train", ["model=paper"])["model"])
    meta = torch.device("meta")
    with imagined_mesh(plan_layout(2, 2), 0, meta) as mesh, meta:
        net = Net(table, Share(0, 2), mesh.crossing, native=True)
        optimizer = build_optimizer(net, UPDATE, None, narrow_copies(net, "bf16", True, replicas=1), native=True)
        for layer in net.layers():
            layer.copy.read()  # as the last update has left it
        pixels = torch.empty(BATCH, 224, 224, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        numbers, mirror = torch.empty(BATCH, dtype=torch.int64), torch.empty(BATCH, dtype=torch.bool)
        colour, mean, vectors, deviations = map(torch.empty, ((BATCH, 3), (3, 256, 256), (3, 3), (3,)))
        step = torch.empty((), dtype=torch.int64)
        with Tally(LAUNCHES) as tally:
            images = preprocess(pixels, mean, numbers, numbers, mirror, colour, vectors, deviations, 1.0, net.image_dtype)
            loss, wrong = split_cross_entropy(net(images, DropoutKey(1, step)), numbers, mesh.tower_group, native=True)
            finite = loss.detach().isfinite().float()
            loss.backward()
            optimizer.step(finite)
    assert wrong.is_meta
    assert all(parameter.grad.is_meta for parameter in net.parameters())
    assert sum(count.launches for count in tally.counts.values()) <= 90
    assert sum(count.bytes for count in tally.counts.values()) / BATCH <= 16e6
    assert sum(count.synchronisations for count in tally.counts.values()) == 0
