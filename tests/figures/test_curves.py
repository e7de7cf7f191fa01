"""What curves and pictures of activity are drawn of."""

from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.figures.curves import draw_activity, draw_comparison, draw_curves, fit, rates_by_epoch
from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.figures.style import drawing
from alexnet_dist.text import printable


def _run(*records: dict[str, Any]) -> RunFiles:
    return RunFiles(Path("run"), {}, list(records), [], None, None, {})


def _step(step: int, lr: float, loss: float | None = 1.0) -> dict[str, Any]:
    return {"kind": "train", "step": step, "epoch": step / 100, "lr": lr, "loss": loss}


def test_the_learning_rate_has_a_panel_of_its_own(tmp_path: Path) -> None:
    run = _run(*(_step(step, 0.01 if step < 2000 else 0.001) for step in range(10, 4000, 10)))
    assert draw_curves(run, tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.count(">0.01<") == drawn.count(">0.001<") == 1
    assert len(drawn) < 60_000, "399 records are drawn as fewer points"


def test_a_rate_changes_where_the_validation_stood_that_changed_it() -> None:
    validation = {"kind": "val", "step": 25, "epoch": 0.25}
    epochs, rates = rates_by_epoch([_step(10, 0.01), _step(20, 0.01), validation, _step(30, 0.001), _step(40, 0.001)])
    assert epochs == [0.1, 0.2, 0.25, 0.3, 0.4]
    assert rates == [0.01, 0.01, 0.01, 0.001, 0.001], "each is the rate since the point before"


@pytest.mark.parametrize(
    ("values", "from_zero", "least_height"), [([3.0, 2.7], False, 0.8), ([3.0, 0.5], True, 0.75), ([0.0, 0.0], True, 0.0)]
)
def test_a_small_fall_fills_the_axis_and_a_large_one_begins_at_zero(
    values: list[float], from_zero: bool, least_height: float, tmp_path: Path
) -> None:
    with drawing(tmp_path / "x.svg", 200) as figure:
        axes = figure.subplots()
        axes.plot(values)
        fit(axes)
        low, high = axes.get_ylim()
    assert (low == 0) == from_zero
    assert (max(values) - min(values)) / (high - low) >= least_height


def test_a_loss_that_was_no_number_leaves_a_gap_and_not_a_failure(tmp_path: Path) -> None:
    assert draw_curves(_run(_step(10, 0.01), _step(20, 0.01, loss=None), _step(30, 0.01)), tmp_path / "curves.svg")


@pytest.mark.filterwarnings("error")
def test_where_no_loss_was_a_number_no_curve_is_drawn(tmp_path: Path) -> None:
    run = _run(_step(10, 0.01, loss=None))
    assert draw_curves(run, tmp_path / "curves.svg")
    draw_comparison([("run", run)], tmp_path / "comparison.svg")


def test_every_run_is_in_the_legend_whatever_its_name(tmp_path: Path) -> None:
    names = ("_mine", "yours", "l\udce9gende")
    assert draw_comparison([(name, _run(_step(10, 0.01))) for name in names], tmp_path / "x.svg")
    drawn = (tmp_path / "x.svg").read_text()
    assert all(f">{printable(name)}<" in drawn for name in names)


@pytest.mark.parametrize("name", ["x.svg", "x.png", "x.webp"])
def test_a_figure_that_cannot_be_written_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} cannot be written \(Is a directory\): set output to a page elsewhere"):
        draw_curves(_run(_step(10, 0.01)), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing is left half written"


def test_without_records_nothing_is_drawn(tmp_path: Path) -> None:
    assert not draw_curves(_run(), tmp_path / "curves.svg")
    assert not draw_activity(_run(_step(10, 0.01)), tmp_path / "activity.svg")
    assert not list(tmp_path.iterdir())


def test_activity_is_drawn_for_every_layer_and_tower(tmp_path: Path) -> None:
    sizes = {"activation": [1.0, 0.5], "gradient": [1e-3, 0.0], "saturated": [0.1, 0.2], "dead": [0.0, 1.0]}
    records = [
        {"kind": "activity", "step": step, "epoch": 0.0, "layers": dict.fromkeys(("conv1", "conv2", "fc3"), sizes)}
        for step in (1, 20, 40)
    ]
    assert draw_activity(_run(*records), tmp_path / "activity.svg")
    drawn = (tmp_path / "activity.svg").read_text()
    for name in ("conv1", "conv2", "fc3", "Gradient that comes back", "Saturated units"):
        assert name in drawn
