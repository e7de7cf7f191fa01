"""What curves and pictures of activity are drawn of."""

from pathlib import Path
from typing import Any

from alexnet_dist.figures.activity import draw_activity
from alexnet_dist.figures.curves import draw_curves
from alexnet_dist.figures.run_files import RunFiles


def _run(*records: dict[str, Any]) -> RunFiles:
    return RunFiles(Path("run"), {}, list(records), [], None, None, {})


def _step(step: int, lr: float, loss: float | None = 1.0) -> dict[str, Any]:
    return {"kind": "train", "step": step, "epoch": step / 100, "lr": lr, "loss": loss}


def test_a_change_of_the_learning_rate_is_marked_once(tmp_path: Path) -> None:
    run = _run(*(_step(step, 0.01 if step < 2000 else 0.001) for step in range(10, 4000, 10)))
    assert draw_curves(run, tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.count("rate 0.001") == 1
    assert "rate 0.01<" not in drawn
    assert len(drawn) < 60_000, "399 records are drawn as fewer points"


def test_a_loss_that_was_no_number_leaves_a_gap_and_not_a_failure(tmp_path: Path) -> None:
    assert draw_curves(_run(_step(10, 0.01), _step(20, 0.01, loss=None), _step(30, 0.01)), tmp_path / "curves.svg")


def test_without_records_nothing_is_drawn(tmp_path: Path) -> None:
    assert not draw_curves(_run(), tmp_path / "curves.svg")
    assert not draw_activity(_run(_step(10, 0.01)), tmp_path / "activity.svg")
    assert not list(tmp_path.iterdir())


def test_signals_are_drawn_for_every_layer_and_tower(tmp_path: Path) -> None:
    sizes = {"activation": [1.0, 0.5], "gradient": [1e-3, 0.0], "saturated": [0.1, 0.2], "dead": [0.0, 1.0]}
    records = [
        {"kind": "activity", "step": step, "epoch": 0.0, "layers": dict.fromkeys(("conv1", "conv2", "fc3"), sizes)}
        for step in (1, 20, 40)
    ]
    assert draw_activity(_run(*records), tmp_path / "activity.svg")
    drawn = (tmp_path / "activity.svg").read_text()
    for name in ("conv1", "conv2", "fc3", "Gradient that comes back", "Saturated units"):
        assert name in drawn
