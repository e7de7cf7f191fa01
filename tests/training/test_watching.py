"""What a run leaves for those who want to know where its time goes."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.training.trace import Trace
from tests.commands import read_metrics, train

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


@pytest.fixture(scope="module")
def watched(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    words = ("run.dir=run", "trainer.max_steps=6", "trainer.batch_size=32", "trainer.log_every=2", "trainer.profile=[4,5]")
    train(*words, f"data.root={few_images}", "evaluation.views=1", "trainer.deterministic=true", cwd=folder)
    return folder / "run"


def test_each_rank_traces_the_steps_asked_for_with_their_parts_by_name(watched: Path) -> None:
    for rank in range(2):
        events = json.loads(gzip.decompress((watched / "trace" / f"rank{rank}.json.gz").read_bytes()))["traceEvents"]
        named = [event["name"] for event in events if event.get("cat") == "user_annotation"]
        assert [name for name in named if name.startswith("step")] == ["step 4", "step 5", "step 6"], "as far as the run went"
        ways = [f"{layer} {way}" for layer in LAYERS for way in ("forward", "backward")]
        for part in ("feed", "send", "waiting", "update", *ways):
            assert named.count(part) >= 2, part


def test_a_trace_that_cannot_be_written_or_has_no_step_is_a_line(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "trace").write_text("a file in the way")
    with join_mesh(2, torch.device("cpu"), timeout=60) as mesh:
        trace = Trace(1, 1, tmp_path / "trace", Net(build_table(compose("train", [])["model"])), mesh, said.append)
        trace.write()
        with trace.step(1):
            torch.ones(3).sum()
        trace.write()
    assert said == [
        "warning: no step of trainer.profile was taken in this start, so there is no trace",
        f"warning: {tmp_path}/trace/rank0.json.gz cannot be written (File exists), so there is no trace",
    ]


def test_the_times_of_one_step_are_kept_for_the_report(watched: Path) -> None:
    told = json.loads((watched / "timeline.json").read_text())
    assert len(told["towers"]) == 2
    assert told["seconds"] > 0
    for spans in told["towers"]:  # of a step that is traced, too
        assert {"send", "waiting", "update", "conv3 forward"} <= {name for name, _, _ in spans}


def test_lines_say_what_share_of_the_peak_the_products_reach_where_it_is_known(watched: Path) -> None:
    model = json.loads((watched / "config.json").read_text())["model"]
    flops = build_table(model).training_flops
    for line in read_metrics(watched):
        if line["kind"] == "train":
            assert line["flops_per_second"] == pytest.approx(flops * line["images_per_second"])
            assert line["peak_share"] is None  # of a CPU
