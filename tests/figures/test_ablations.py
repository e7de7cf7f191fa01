"""Experiments beside the authors' figures: means and spread over seeds, the net that each is compared with, the picture."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from alexnet_dist.figures.ablations import ablations, draw_ablations
from alexnet_dist.figures.run_files import RunFiles, read_run
from alexnet_dist.figures.run_report import _story
from alexnet_dist.figures.sweep_report import ablations_table, report_of_sweep
from alexnet_dist.launching.commands import compose
from alexnet_dist.tracking.display import Display

# Experiment, seed, top-1 and top-5 error.
SWEEP = [
    ("tiny_imagenet", 1, 0.50, 0.25),
    ("tiny_imagenet", 2, 0.52, 0.23),
    ("small/no_lrn", 1, 0.53, 0.26),
    ("small/no_lrn", 2, 0.57, 0.30),
    ("small/no_colour", 1, 0.49, 0.24),
    ("small/tanh", 1, 0.61, 0.35),
    ("paper", 1, 0.40, 0.18),
    ("no_lrn", 1, 0.43, 0.19),
]


def made(folder: Path, sweep: list[tuple[str, int, float, float]], *others: str) -> list[RunFiles]:
    runs = []
    for job, (experiment, seed, top1, top5) in enumerate(sweep):
        words = [f"experiment={experiment}", f"seed={seed}", "data.root=images", *others]
        config = compose("train", words)
        config["run"]["overrides"] = words
        (folder / str(job)).mkdir(parents=True)
        (folder / str(job) / "config.json").write_text(json.dumps(config))
        record = {"kind": "val", "step": 1, "epoch": 1.0, "top1_error": top1, "top5_error": top5, "views": 10}
        (folder / str(job) / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        (folder / str(job) / "stopped").write_text("done\n")
        runs.append(read_run(folder / str(job)))
    return runs


def test_runs_that_only_the_seed_sets_apart_are_one_and_each_is_beside_its_own_whole_net(tmp_path: Path) -> None:
    rows = {row.experiment: row for row in ablations(made(tmp_path, SWEEP))}
    assert list(rows) == ["tiny_imagenet", "small/no_lrn", "small/no_colour", "small/tanh", "paper", "no_lrn"]
    assert rows["tiny_imagenet"].here == pytest.approx((0.51, 0.24))
    assert rows["tiny_imagenet"].spread == pytest.approx((0.01, 0.01))
    assert rows["tiny_imagenet"].here_worse is None
    assert rows["tiny_imagenet"].authors is None
    assert rows["small/no_lrn"].here_worse == pytest.approx((0.04, 0.04))
    assert rows["small/no_lrn"].worse_by_seed == pytest.approx([0.02, 0.06])
    assert rows["small/no_lrn"].authors_worse == pytest.approx((0.014, 0.012))
    assert rows["small/no_lrn"].authors is None, "theirs is of the paper's net"
    assert rows["small/no_colour"].here_worse == pytest.approx((-0.02, 0.0))
    assert rows["small/no_colour"].authors_worse == (0.01, None)
    assert rows["small/tanh"].authors_worse is None
    assert rows["no_lrn"].here_worse == pytest.approx((0.03, 0.01)), "worse than experiment=paper"
    assert rows["no_lrn"].authors == pytest.approx((0.42, 0.194))


def test_a_net_begun_with_layers_and_overrides_in_another_order_are_beside_the_whole_net(tmp_path: Path) -> None:
    runs = made(tmp_path / "whole", [("net145", 1, 0.41, 0.18)], "trainer.epochs=3", "trainer.batch_size=64")
    begun = ("trainer.batch_size=64", "init_from=runs/fall2011", "trainer.epochs=3", "init_layers=[conv1,conv2]")
    runs += made(tmp_path / "begun", [("net146", 1, 0.39, 0.17)], *begun)
    assert {row.experiment: row.here_worse for row in ablations(runs)}["net146"] == pytest.approx((-0.02, -0.01))


def test_the_nets_as_the_authors_ran_them_are_beside_their_own_whole_net(tmp_path: Path) -> None:
    sweep = [("paper", 1, 0.40, 0.18), ("net145", 1, 0.41, 0.19), ("net148", 1, 0.42, 0.20), ("no_lrn", 1, 0.43, 0.19)]
    worse = {row.experiment: row.here_worse and row.here_worse[0] for row in ablations(made(tmp_path, sweep))}
    assert worse == {"paper": None, "net145": None, "net148": pytest.approx(0.01), "no_lrn": pytest.approx(0.03)}


def test_a_run_that_is_not_complete_does_not_count(tmp_path: Path) -> None:
    runs = made(tmp_path, [("paper", 1, 0.40, 0.18), ("paper", 2, 0.95, 0.90), ("no_lrn", 1, 0.43, 0.19)])
    (tmp_path / "1" / "stopped").write_text("signal\n")
    whole, without = ablations([read_run(run.folder) for run in runs])
    assert whole.seeds == [(0.40, 0.18)]
    assert without.here_worse == (pytest.approx(0.03), pytest.approx(0.01))


def test_runs_that_more_than_the_seed_sets_apart_are_not_averaged(tmp_path: Path) -> None:
    runs = [*made(tmp_path / "a", SWEEP[:1]), *made(tmp_path / "a/b", SWEEP[2:4])]
    runs += [*made(tmp_path / "c", SWEEP[1:2], "optimizer.lr=0.1"), *made(tmp_path / "d", SWEEP[3:4], "optimizer.lr=0.1")]
    rows = {row.label: row.here_worse for row in ablations(runs)}
    assert list(rows) == [
        "tiny_imagenet", "small/no_lrn", "tiny_imagenet optimizer.lr=0.1", "small/no_lrn optimizer.lr=0.1",
    ]  # fmt: skip
    assert rows["small/no_lrn"] == pytest.approx((0.05, 0.03))
    assert rows["small/no_lrn optimizer.lr=0.1"] == pytest.approx((0.05, 0.07))


def test_where_and_by_how_many_processes_a_run_was_trained_sets_it_apart_from_none(tmp_path: Path) -> None:
    runs = [
        *made(tmp_path / "a", SWEEP[:1], "parallel.jobs=1"),
        *made(tmp_path / "b", SWEEP[1:2], "parallel.jobs=2", "tracking=none"),
    ]
    runs += made(tmp_path / "c", SWEEP[1:2], "parallel.wire=bf16")
    assert {row.label: len(row.seeds) for row in ablations(runs)} == {"tiny_imagenet": 2, "tiny_imagenet parallel.wire=bf16": 1}


def test_they_are_drawn_and_told(tmp_path: Path) -> None:
    rows = ablations(made(tmp_path, SWEEP[:6]))
    assert draw_ablations(rows, tmp_path / "ablations.svg")
    drawn = (tmp_path / "ablations.svg").read_text()
    assert [name in drawn for name in ("no_lrn", "no_colour", "tanh")] == [True] * 3
    console = Console(width=80)
    with console.capture() as said:
        console.print(ablations_table(rows))
    (line,) = [line for line in said.get().splitlines() if "no_lrn" in line]
    assert line.split() == ["small/no_lrn", "2", "55.00", "/", "28.00", "+4.00", "/", "+4.00", "+1.40", "/", "+1.20"]


def test_of_a_run_without_lines_of_training_a_page_says_no_rate_and_one_tower_is_no_towers(tmp_path: Path) -> None:
    runs = made(tmp_path, [("one_gpu", 1, 0.39, 0.18), ("paper", 1, 0.40, 0.18)])
    with Display(rank=1) as display:
        page = report_of_sweep([run.folder for run in runs], str(tmp_path), display, None)
    assert '<td class="number">0</td>' not in page.read_text()
    assert [told in _story(run) for run, told in zip(runs, (": 1 tower, fp32", ": 2 towers, fp32"), strict=True)] == [True] * 2


def test_nothing_is_drawn_without_the_whole_net(tmp_path: Path) -> None:
    rows = ablations(made(tmp_path, SWEEP[2:4]))
    assert [row.here_worse for row in rows] == [None]
    assert not draw_ablations(rows, tmp_path / "ablations.svg")
    assert not (tmp_path / "ablations.svg").exists()


def test_a_net_of_the_same_name_with_other_images_is_no_experiment_of_the_authors(tmp_path: Path) -> None:
    assert not ablations(made(tmp_path, [("paper", 1, 0.40, 0.18)], "model=tiny_imagenet", "data=cifar10"))
