"""The training error of a line, and a run that stops at one."""

from pathlib import Path

import pytest

from tests.commands import read_metrics, train


def test_a_run_stops_at_the_training_error_asked_for_and_stays_there(drawn_images: Path, tmp_path: Path) -> None:
    words = (f"data.root={drawn_images}", "run.dir=run", "trainer.log_every=5", "trainer.batch_size=32", "evaluation.views=1")
    done = train(*words, "trainer.stop_at_training_error=0.75", "trainer.max_steps=400", cwd=tmp_path)
    lines = [record for record in read_metrics(tmp_path / "run") if record["kind"] == "train"]
    assert all(line["top1_error"] > 0.75 for line in lines[:-1])
    assert lines[-1]["top1_error"] <= 0.75
    assert 5 < lines[-1]["step"] < 400
    assert all(round(line["top1_error"] * 160) == pytest.approx(line["top1_error"] * 160) for line in lines), "of 5 x 32 images"
    assert f"training error {lines[-1]['top1_error']:.2%}" in done.stdout

    again = train(*words, "trainer.stop_at_training_error=0.75", "trainer.max_steps=400", cwd=tmp_path)
    assert f"resumed from run/checkpoints/step-{lines[-1]['step']:08d}" in again.stdout
    assert [record for record in read_metrics(tmp_path / "run") if record["kind"] == "train"] == lines
