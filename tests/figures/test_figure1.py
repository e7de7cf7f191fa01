"""Figure 1 from a sweep's folder: the best rate of each activation, how many times sooner, the picture."""

import json
from pathlib import Path

import pytest
from PIL import Image

from alexnet_dist.errors import UserError
from alexnet_dist.figures.figure1 import best_curves, read_curves, run, verdict
from alexnet_dist.launching.commands import compose

RUNS = [
    ("relu", 0.001, [0.6, 0.4, 0.3, 0.26]),
    ("relu", 0.002, [0.5, 0.3, 0.24]),
    ("relu", 0.004, [0.9, 0.9, 0.9, 0.9]),
    ("tanh", 0.001, [0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25]),
    ("tanh", 0.002, [0.8] * 8),
    ("sigmoid", 0.001, [0.9, 0.8, 0.7, 0.6]),
]


def _make_sweep(folder: Path, runs: list[tuple[str, float, list[float]]]) -> Path:
    for job, (activation, lr, errors) in enumerate(runs):
        words = ["experiment=figure1", f"model.operations.activation.kind={activation}", f"optimizer.lr={lr}", "data.root=images"]
        (folder / str(job)).mkdir(parents=True)
        (folder / str(job) / "config.json").write_text(json.dumps(compose("train", words)))
        lines = [{"kind": "train", "epoch": 0.2 * (point + 1), "top1_error": error} for point, error in enumerate(errors)]
        lines.append({"kind": "val", "epoch": 1.0, "top1_error": 0.0})
        (folder / str(job) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_best_rate_of_each_is_found_over_several_sweeps_and_the_figure_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps = [_make_sweep(tmp_path / "a", RUNS[:2]), _make_sweep(tmp_path / "b", RUNS[2:])]
    picture = tmp_path / "figure1.png"
    run({"sweep": [str(sweep) for sweep in sweeps], "error": 0.25, "output": str(picture)})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("<- the best")] == ["relu", "tanh", "sigmoid"]
    assert lines[1] == "relu     learning rate 0.002    25% after 0.6 epochs  <- the best"
    assert lines[-2] == (
        "ReLU reaches a training error of 25% after 0.6 epochs, 2.7 times sooner than tanh, more than 1.3 times sooner than "
        "sigmoid (the authors: 6 times sooner than tanh to 25%, paper, figure 1)"
    )
    with Image.open(picture) as image:
        assert min(image.size) > 300
        assert len(image.convert("L").getcolors()) > 2, "something is drawn"


def test_a_run_that_diverged_before_its_first_line_is_told_and_not_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = _make_sweep(tmp_path / "a", RUNS)
    (sweep / "0" / "metrics.jsonl").write_text("")
    run({"sweep": str(sweep), "error": 0.25, "output": None})
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "no line of training" in line] == [lines[0]]
    assert (sweep / "figure1.svg").exists()


def test_where_no_relu_net_arrives_that_is_said(tmp_path: Path) -> None:
    curves = read_curves([_make_sweep(tmp_path / "a", RUNS[2:])])
    assert "no run with ReLUs has reached" in verdict(best_curves(curves, 0.25), 0.25)
    assert verdict(best_curves(curves, 0.125), 0.125).endswith("a training error of 12.5%"), "which is not rounded"


def test_a_run_that_ended_before_the_relu_net_arrived_is_held_against_nothing(tmp_path: Path) -> None:
    curves = read_curves([_make_sweep(tmp_path / "a", [*RUNS[:2], ("tanh", 0.001, [0.9, 0.9])])])
    assert verdict(best_curves(curves, 0.25), 0.25) == "ReLU reaches a training error of 25% after 0.6 epochs"


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    def refusal(**words: object) -> str:
        with pytest.raises(UserError) as refused:
            run({"sweep": None, "error": 0.25, "output": None, **words})
        return str(refused.value)

    assert "sweep is not set" in refusal()
    assert "holds no run folders" in refusal(sweep=str(tmp_path / "nowhere"))
    sweep = _make_sweep(tmp_path / "a", RUNS[:1])
    assert "figure1.jpeg2" in refusal(sweep=str(sweep), output="figure1.jpeg2")
    assert "cannot be written" in refusal(sweep=str(sweep), output=str(tmp_path / "no" / "folder.svg"))
    (sweep / "0" / "metrics.jsonl").write_text("")
    assert "no line of training" in refusal(sweep=str(sweep))
    config = json.loads((sweep / "0" / "config.json").read_text())
    config["model"]["operations"]["other"] = {"kind": "tanh"}
    next(iter(config["model"]["layers"].values()))["then"].append("other")
    (sweep / "0" / "config.json").write_text(json.dumps(config))
    assert "relu and tanh" in refusal(sweep=str(sweep))
