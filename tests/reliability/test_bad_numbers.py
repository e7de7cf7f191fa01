"""A loss that is NaN or infinite stops the run and is traced to its layer, or its update is left out."""

from pathlib import Path

import pytest
import torch

from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.parallel.process import set_precision
from alexnet_dist.training.bad_numbers import where_it_began
from tests.commands import read_metrics, read_tensors, run_command, train
from tests.distributed.processes import run_processes
from tests.reliability import kills

STEPS = ("trainer.max_steps=5", "checkpoint.every=1", "checkpoint.keep=10", "run.dir=run")
# The first update makes weights so large that the second forward pass overflows.
TOO_FAST = ("optimizer.lr=1e25",)
# The first update overflows itself, though the loss before it is finite.
OVERFLOWING = ("optimizer.lr=3e38", "optimizer.weight_decay=10")


def _places() -> list[str]:
    cpu = torch.device("cpu")
    found = []
    with join_mesh(2, cpu, timeout=60) as mesh:
        table = build_table(compose("train", [])["model"])
        net = Net(table, mesh.crossing)
        images = torch.randn(2, 3, table.input_size, table.input_size)
        inputs = [(images, torch.zeros(2, dtype=torch.int64), DropoutKey(0, 1))]
        for layer, tower in (("fc7", 0), ("conv4", 1)):
            net.initialise(0)
            if mesh.share == tower:
                net.get_submodule(layer).bias.data[0] = torch.nan
            found.append(where_it_began(net, inputs, mesh, set_precision("fp32", cpu)))
        images[0, 0, 0, 0] = torch.inf
        found.append(where_it_began(net, inputs, mesh, set_precision("fp32", cpu)))
    return found


def test_the_layer_and_its_tower_are_found() -> None:
    for found in run_processes(_places, 2):
        assert found == ["fc7 of tower 0", "conv4 of tower 1", "the images"]


@pytest.mark.parametrize(
    ("rate", "kept"), [(TOO_FAST, "; the checkpoint of step 1 stays"), (OVERFLOWING, "; there is no checkpoint yet")]
)
def test_the_run_stops_before_the_update_and_keeps_no_bad_checkpoint(
    rate: tuple[str, ...], kept: str, few_images: Path, tmp_path: Path
) -> None:
    done = run_command("train", "tracking=none", *kills.RUN, *STEPS, *rate, f"data.root={few_images}", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: the loss is NaN or infinite at step 2: activations first went bad in conv"), line
    assert line.endswith(kept), line
    if rate == TOO_FAST:
        assert all(tensor.isfinite().all() for tensor in read_tensors(tmp_path / "run").values())
    else:
        assert "warning: no checkpoint of step 1 could be written to run/checkpoints (" in done.stdout
        assert " holds NaN or infinite numbers); the run goes on" in done.stdout
        assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_net_that_diverges_in_its_last_step_is_told(few_images: Path, tmp_path: Path) -> None:
    words = (*kills.RUN, *TOO_FAST, "trainer.max_steps=1", "parallel.processes=1", "run.dir=run")
    done = train(*words, f"data.root={few_images}", cwd=tmp_path)
    assert "warning: the validation loss is NaN or infinite: the net has diverged" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_an_update_that_is_skipped_is_counted_and_changes_nothing(processes: int, few_images: Path, tmp_path: Path) -> None:
    words = (*kills.RUN, *STEPS, *TOO_FAST, "trainer.on_nan=skip", f"data.root={few_images}", f"parallel.processes={processes}")
    done = train(*words, cwd=tmp_path)
    assert "warning: the loss is NaN or infinite at step 5; its update is left out (4 so far)" in done.stdout
    records = [record for record in read_metrics(tmp_path / "run") if record["kind"] == "train"]
    assert [record["skipped_updates"] for record in records] == [0, 1, 2, 3, 4]
    assert records[-1]["loss"] is None
    after_one_step = read_tensors(tmp_path / "run", "step-00000001")
    for name, tensor in read_tensors(tmp_path / "run").items():
        assert torch.equal(tensor, after_one_step[name]), name
