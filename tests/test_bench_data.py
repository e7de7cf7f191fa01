"""The data bench on drawn images, as a command."""

import json
from pathlib import Path

from tests.commands import run_command


def test_the_bench_measures_every_reader_on_files_and_packed(drawn_images: Path, tmp_path: Path) -> None:
    words = [f"root={drawn_images}", "size=48", "crop=40", "batch_size=16", "rounds=2", "seconds=0.2", "output=figures.json"]
    done = run_command("bench", "data", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["cases"]) == ["files as they are", "packed at 48 pixels"]
    for case in figures["cases"].values():
        assert len(case["images_per_second"]) == 6
        assert all(len(rates) == 2 and min(rates) > 0 for rates in case["images_per_second"].values())
    assert "this feed" in done.stdout

    again = run_command("bench", "data", *words, cwd=tmp_path)
    assert again.returncode == 2
    assert "figures.json is there already" in again.stderr
