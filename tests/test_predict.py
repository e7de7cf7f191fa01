"""What predict prints of ordinary and odd files, beside what evaluate says of the same images."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from alexnet_dist.data.decode import Crops
from alexnet_dist.data.odd_files import UnusableImageError
from alexnet_dist.data.pictures import find_pictures, read_picture
from alexnet_dist.errors import UserError
from alexnet_dist.predict import show
from alexnet_dist.tracking.metrics import finite
from tests.data.jpegs import InMemory
from tests.data.test_decode import decoded
from tests.forked import run_forked
from tests.packing.miniature import encoded, odd_but_good, photo, unusable


def _json(*words: str, cwd: Path) -> tuple[list[dict[str, Any]], str, int]:
    done = run_forked("predict", *words, "json=true", cwd=cwd)
    return json.loads(done.stdout), done.stderr, done.returncode


def test_odd_files_are_seen_as_the_pictures_they_show_and_bad_ones_are_named(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    ico = encoded(photo(3, 64, 64), "ICO"), photo(3, 64, 64)  # a format that prepare does not take
    odd = {**odd_but_good(photo(3)), "ico": ico}
    bad = unusable()
    (tmp_path / "odd").mkdir()
    (tmp_path / "plain").mkdir()
    for name, (data, picture) in odd.items():
        (tmp_path / "odd" / f"{name}.jpg").write_bytes(data)
        picture.save(tmp_path / "plain" / f"{name}.png")
    for name, (data, _) in bad.items():
        (tmp_path / "odd" / f"{name}.jpg").write_bytes(data)
    words = (f"checkpoint={two_runs[0]}", "images=[odd,plain]", "views=1")
    answers, said, status = _json(*words, cwd=tmp_path)
    seen = {answer["image"]: {entry["label"]: entry["probability"] for entry in answer["best"]} for answer in answers}
    assert len(seen) == 2 * len(odd)
    for name in odd:
        ours, theirs = seen[f"odd/{name}.jpg"], seen[f"plain/{name}.png"]
        assert all(ours[label] == pytest.approx(theirs[label], abs=0.01) for label in ours.keys() & theirs.keys()), name
    assert status == 2
    lines = said.splitlines()
    assert len(lines) == len(bad)
    for name, (_, reason) in bad.items():
        assert any(line.startswith(f"error: odd/{name}.jpg: ") and reason in line for line in lines), said


def test_in_a_terminal_each_label_has_a_bar(two_runs: tuple[Path, Path], drawn_images: Path, tmp_path: Path) -> None:
    shutil.copy(drawn_images / "val/red-stripes-flat/0000.jpg", tmp_path / "a [1] picture.jpg")
    done = run_forked("predict", f"checkpoint={two_runs[0]}", "images=.", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    name, *lines = done.stdout.splitlines()
    assert name == "a [1] picture.jpg"
    assert len(lines) == 5
    shares = [float(line.split("%")[0]) for line in lines]
    assert shares == sorted(shares, reverse=True)
    assert "█" in lines[0]
    assert {line.split()[-1] for line in lines} <= {folder.name for folder in (drawn_images / "val").iterdir()}


@pytest.mark.parametrize(("width", "height"), [(500, 375), (257, 256), (100, 61), (64, 64), (300, 64), (64, 90)])
def test_the_pixels_are_the_feed_s(width: int, height: int, tmp_path: Path) -> None:
    data = encoded(photo(width, width, height))
    (tmp_path / "picture.jpg").write_bytes(data)
    ours = read_picture(tmp_path / "picture.jpg", 64).permute(1, 2, 0).numpy()
    theirs = decoded(InMemory([data]), Crops.whole(np.arange(1)), 64, 64)[0]
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_strip_of_a_pixel_is_cropped_and_not_scaled_up_whole(tmp_path: Path) -> None:
    Image.new("RGB", (20_000, 1), "red").save(tmp_path / "strip.png")
    assert read_picture(tmp_path / "strip.png", 64).shape == (3, 64, 64)


def test_what_a_diverged_net_says_is_shown_and_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    best = [{"label": 0, "id": "cat", "class": "cat", "probability": math.nan}]
    show(Console(), Path("a.jpg"), best)
    assert "nan%" in capsys.readouterr().out
    assert finite(best) == [{**best[0], "probability": None}]


def test_files_folders_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/.hidden.jpg", "notes.txt", "[x].jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"-")
    assert [str(path) for path in find_pictures(["."])] == ["[x].jpg", "a.PNG", "b.jpg", "sub/c.webp"]
    assert [str(path) for path in find_pictures(["b.jpg", "sub/*", "[x].jpg", "notes.txt"])] == [
        "b.jpg", "sub/c.webp", "[x].jpg", "notes.txt",
    ]  # fmt: skip
    for missing in ("no.jpg", "*.gif"):
        with pytest.raises(UserError, match="is no file"):
            find_pictures([missing])
    Path("empty").mkdir()
    with pytest.raises(UserError, match="empty holds no image files"):
        find_pictures(["empty"])
    with pytest.raises(UnusableImageError, match="not an image"):
        read_picture(Path("notes.txt"), 64)
