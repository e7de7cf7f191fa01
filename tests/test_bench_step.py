"""The step bench on a small net, as a command of two processes."""

import json
from pathlib import Path

import pytest

from alexnet_dist.bench.step import prepare_start
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from tests.commands import run_command


def test_the_bench_measures_every_rival(tmp_path: Path) -> None:
    shorter = "model.layers.conv2.then=[relu,pool]"  # each norm takes torch's compiler seconds
    words = ["model=tiny", shorter, "batch_size=16", "rounds=2", "steps=1", "output=figures.json", "device=cpu"]
    done = run_command("bench", "step", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["images_per_second"]) == 10
    assert all(len(rates) == 2 and min(rates) > 0 for rates in figures["images_per_second"].values())
    assert figures["crossing"]["bytes_a_step"] > 0
    assert figures["crossing"]["waiting_seconds"] > 0
    assert list(figures["layers"]) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    assert all(min(times.values()) > 0 for times in figures["layers"].values())


def test_a_net_that_torch_has_no_layers_for_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="fc6 reads its own tower"):
        prepare_start(compose("bench_step", ["model=small/towers_apart", "device=cpu"]))
