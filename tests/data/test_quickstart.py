import hashlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.data import quickstart
from alexnet_dist.data.images import open_folder


def make(folder: Path) -> str:
    quickstart.make(folder, lambda done, total: None)
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.jpg")):
        digest.update(f"{file.relative_to(folder)}".encode() + file.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by two processes at once."""
    folder = tmp_path_factory.mktemp("data") / "deep" / "quickstart"
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        one, other = pool.map(make, [folder, folder])
    assert one == other
    assert [path.name for path in folder.parent.iterdir()] == ["quickstart"]
    return folder


def test_set_has_balanced_classes_of_real_jpegs(made: Path) -> None:
    train, val = open_folder(made)
    assert len(train.classes) == 8
    assert np.bincount(train.labels).tolist() == [200] * 8
    assert np.bincount(val.labels).tolist() == [50] * 8
    sizes = set()
    for i in range(0, len(train), 40):
        with Image.open(train.name(i)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            sizes.add(image.size)
    assert len(sizes) > 20


def test_set_that_is_there_is_reused(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    quickstart.make(made, lambda done, total: pytest.fail("made anew"))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_no_image_is_in_both_splits_and_no_mean_colour_gives_the_class_away(made: Path) -> None:
    train, val = open_folder(made)
    digests = [hashlib.sha256(split.read(i).tobytes()).digest() for split in (train, val) for i in range(len(split))]
    assert len(set(digests)) == len(digests)
    colours = np.array(
        [np.asarray(Image.open(train.name(i)).resize((1, 1), Image.Resampling.BOX))[0, 0] for i in range(len(train))]
    )
    centres = np.stack([colours[train.labels == label].mean(0) for label in range(8)])
    nearest = ((colours[:, None, :] - centres) ** 2).sum(2).argmin(1)
    assert (nearest == train.labels).mean() < 0.5
