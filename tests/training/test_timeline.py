"""A step's parts by name and time, as hooks see them on two processes, and the picture that is drawn of them."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alexnet_dist.figures.step_picture import draw_step
from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import Layout, join_mesh
from alexnet_dist.parallel.process import set_precision
from alexnet_dist.planning.work import UPDATE as RULE
from alexnet_dist.training.step import loss_of
from alexnet_dist.training.timeline import SEND, UPDATE, WAITING, Timeline, seconds_by_layer
from alexnet_dist.training.update import MomentumSGD
from tests.distributed.processes import run_processes

LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


def _watched() -> dict[str, Any]:
    table = build_table(compose("train", ["model=tiny"])["model"])
    with join_mesh(table.towers, torch.device("cpu"), timeout=60) as mesh:
        net = Net(table, mesh.crossing)
        net.initialise(0)
        optimizer = MomentumSGD(net, RULE)
        timeline = Timeline(mesh)
        images, labels = torch.randn(8, 3, 56, 56), torch.arange(8)
        with timeline.watching(net):
            loss, _ = loss_of(net, images, labels, DropoutKey(0, 0), mesh, set_precision("fp32", mesh.device))
            loss.backward()
            optimizer.step()
        return timeline.read()


def test_every_part_of_a_step_is_seen_in_its_order_and_drawn(tmp_path: Path) -> None:
    one, other = run_processes(_watched, 2)
    assert one == other
    for spans in one["towers"]:
        parts = [name for name, _, _ in spans if name not in (SEND, WAITING)]
        assert parts == [*(f"{n} forward" for n in LAYERS), *(f"{n} backward" for n in reversed(LAYERS)), UPDATE]
        outer = [(begin, end) for name, begin, end in spans if name not in (SEND, WAITING)]
        assert all(begin <= end for begin, end in outer)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(outer))
        assert 0 <= outer[0][0] <= outer[-1][1] <= one["seconds"]
        # conv3, fc6, fc7 and fc8 read both towers, forward and backward.
        assert [name for name, _, _ in spans if name in (SEND, WAITING)] == [SEND, WAITING] * 8
    assert list(seconds_by_layer(one)) == LAYERS
    assert draw_step(one, tmp_path / "step.svg")
    drawn = (tmp_path / "step.svg").read_text()
    assert len(re.findall('marker-end="url', drawn)) == 16
    assert "tower 1: conv3 backward" in drawn
    assert "conv3 forward: tower 0 to tower 1" in drawn


@pytest.mark.parametrize(("other", "later"), [("one", 86_000.0), ("another", 0.0)])
def test_clocks_of_two_machines_are_not_compared(other: str, later: float) -> None:
    def told(_: Any) -> list[tuple[Any, ...]]:
        return [("one", 5.0, 1.0, [["conv1 forward", 0.0, 0.5]]), (other, 86_005.0, 2.0, [["conv1 forward", 0.25, 2.0]])]

    mesh: Any = SimpleNamespace(device=torch.device("cpu"), layout=Layout(1, 2), from_everyone=told)
    timeline = Timeline(mesh)
    timeline._begun = timeline._zero = timeline._last = 0.0
    seen = timeline.read()
    assert seen["seconds"] == later + 2.0
    assert seen["towers"] == [[["conv1 forward", 0.0, 0.5]], [["conv1 forward", later + 0.25, later + 2.0]]]


def test_of_one_process_there_is_no_picture(tmp_path: Path) -> None:
    assert not draw_step({"seconds": 1.0, "towers": [[["conv1 forward", 0.0, 0.5]]]}, tmp_path / "step.svg")
    assert not list(tmp_path.iterdir())
