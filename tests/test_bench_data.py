"""The data bench on drawn images, as a command."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from alexnet_dist.bench import data
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from tests.commands import run_command
from tests.forked import run_forked, still_running


def test_the_bench_measures_every_reader_on_files_and_packed(drawn_images: Path, tmp_path: Path) -> None:
    root = take_two_classes(drawn_images, tmp_path / "images")
    words = [f"root={root}", "size=48", "crop=40", "batch_size=16", "rounds=2", "seconds=0.02", "threads=1"]
    words += ["output=figures.json"]
    done = run_command("bench", "data", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["cases"]) == ["files as they are", "packed at 48 pixels"]
    for case in figures["cases"].values():
        assert len(case["images_per_second"]) == 6
        assert all(len(rates) == 2 and min(rates) > 0 for rates in case["images_per_second"].values())
    assert "this feed" in done.stdout

    again = run_forked("bench", "data", *words, cwd=tmp_path)
    assert again.returncode == 2
    assert "figures.json is there already" in again.stderr


def take_two_classes(drawn_images: Path, folder: Path) -> Path:
    for name in sorted(os.listdir(drawn_images / "train"))[:2]:
        (folder / "train" / name).mkdir(parents=True)
        for file in sorted((drawn_images / "train" / name).iterdir())[:12]:
            shutil.copy(file, folder / "train" / name)
    return folder


def test_a_file_that_a_rival_does_not_read_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "b.BMP").touch()
    with pytest.raises(UserError, match=r"does not read .*b\.BMP: name JPEG"):
        data.run(compose("bench_data", [f"root={tmp_path}"]))


def test_fewer_images_than_a_batch_are_refused_before_anything_is_packed(
    drawn_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = take_two_classes(drawn_images, tmp_path / "images")
    with pytest.raises(UserError, match="images/train has 24 images, fewer than a batch: set batch_size=24 or less"):
        data.run(compose("bench_data", [f"root={root}"]))
    assert not capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_file_that_is_no_image_is_named(drawn_images: Path, tmp_path: Path) -> None:
    root = take_two_classes(drawn_images, tmp_path / "images")
    bad = next(root.glob("train/*/*"))
    bad.write_text("no image")
    done = run_forked("bench", "data", f"root={root}", "size=48", "crop=40", "batch_size=16", "seconds=0.2", cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: {bad} cannot be decoded (not an image" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_its_processes_end_with_it_in_the_middle_of_a_turn(
    signum: signal.Signals, status: int, drawn_images: Path, tmp_path: Path
) -> None:
    root = take_two_classes(drawn_images, tmp_path / "images")
    words = [f"root={root}", "size=48", "crop=40", "batch_size=16", "seconds=300"]
    with (tmp_path / "said").open("wb") as said:
        bench = psutil.Popen(
            [sys.executable, "-m", "alexnet_dist.bench", "data", *words],
            cwd=tmp_path,
            stdout=said,
            stderr=said,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be ignored where tests are started
            start_new_session=True,
        )
    begun = time.monotonic()
    while "files as they are 0/" not in (tmp_path / "said").read_text():
        assert time.monotonic() - begun < 120, (tmp_path / "said").read_text()
        time.sleep(0.2)
    while len(processes := bench.children(recursive=True)) <= 6:
        assert time.monotonic() - begun < 120, processes
        time.sleep(0.2)
    time.sleep(1)
    if signum == signal.SIGINT:  # as a terminal does
        os.killpg(bench.pid, signum)
    else:
        bench.send_signal(signum)
    assert bench.wait(60) == status
    assert not still_running(processes, seconds=20)
    said_at_the_end = (tmp_path / "said").read_text().splitlines()[-1]
    assert "Traceback" not in (tmp_path / "said").read_text()
    assert signum == signal.SIGKILL or said_at_the_end == "interrupted"
