"""The challenge's numbers of images and classes, from archives packed here, from the devkit, and refused where unknown."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.data.images import Images, Relabelled, open_folder
from alexnet_dist.data.packed import open_packed
from alexnet_dist.errors import UserError
from alexnet_dist.results.predictions import Predictions
from alexnet_dist.results.submission import plan_submission
from tests.packing.miniature import encoded, pack_here, photo, write_ilsvrc2012

# As in the devkit, the order of the numbers is not that of the WordNet ids.
WORDS = {f"n0000000{last}": f"animal {last}" for last in (3, 1, 5, 2, 4)}
VAL = ["n00000002", "n00000005", "n00000003", "n00000001", "n00000004", "n00000003"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archives")
    train = {wnid: {f"{wnid}_1.JPEG": encoded(photo(seed))} for seed, wnid in enumerate(WORDS)}
    write_ilsvrc2012(root, train, [(encoded(photo(50 + i)), wnid) for i, wnid in enumerate(VAL)], WORDS)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as a folder of class folders, as ImageNet is often kept."""
    root = tmp_path_factory.mktemp("folder")
    for number, wnid in enumerate(VAL, 1):
        for split, name in (("train", f"{wnid}_{number}"), ("val", f"ILSVRC2012_val_{number:08d}")):
            (root / split / wnid).mkdir(parents=True, exist_ok=True)
            (root / split / wnid / f"{name}.JPEG").write_bytes(encoded(photo(50 + number)))
    return root


def test_images_without_a_number_or_with_one_twice_are_refused(
    archives: Path, folder: Path, tmp_path: Path
) -> None:
    for name, said in (("stray", "stray.JPEG has no number"), ("copy of ILSVRC2012_val_00000002", "has a number that another")):
        root = tmp_path / name
        shutil.copytree(folder, root)
        (root / "val" / VAL[0] / f"{name}.JPEG").write_bytes(b"-")
        with pytest.raises(UserError, match=said):
            plan_submission(open_folder(root)[1], archives / "ILSVRC2012_devkit_t12.tar.gz", print)


def _sure(images: Images) -> Predictions:
    """Predictions that are right, and then name the other classes in the order of their labels."""
    probabilities = np.tile(np.linspace(0.3, 0.1, 5, dtype=np.float32), (len(images), 1))
    probabilities[np.arange(len(images)), images.labels] = 0.9
    return Predictions(probabilities, images.labels, np.array([]), np.array(images.classes), np.array(images.class_ids))


def _first_numbers(images: Images, submission: Path, devkit: Path | None, numbered: Images | None = None) -> list[int]:
    plan = plan_submission(images, devkit, say=lambda line: pytest.fail(line))
    with submission.open("wb") as file:
        plan.write(_sure(numbered or images), file)
    lines = [[int(word) for word in line.split()] for line in submission.read_text().splitlines()]
    assert all(sorted(line) == [1, 2, 3, 4, 5] for line in lines)
    return [line[0] for line in lines]


def test_packed_archives_folders_and_nets_of_another_order_give_the_devkit_s_numbers(
    archives: Path, folder: Path, tmp_path: Path
) -> None:
    expected = [list(WORDS).index(wnid) + 1 for wnid in VAL]
    packed = open_packed(pack_here(archives, tmp_path / "packed", source="ilsvrc2012"))[1]
    assert _first_numbers(packed, tmp_path / "packed.txt", None) == expected
    by_id = Relabelled(packed, sorted(WORDS))
    assert _first_numbers(packed, tmp_path / "relabelled.txt", None, numbered=by_id) == expected
    devkit = archives / "ILSVRC2012_devkit_t12.tar.gz"
    assert _first_numbers(open_folder(folder)[1], tmp_path / "folder.txt", devkit) == expected


def test_wordnet_classes_without_the_devkit_and_a_missing_image_are_refused(archives: Path, folder: Path, tmp_path: Path) -> None:
    images = open_folder(folder)[1]
    with pytest.raises(UserError, match="name it with devkit=ILSVRC2012_devkit_t12"):
        plan_submission(images, None, print)
    devkit = archives / "ILSVRC2012_devkit_t12.tar.gz"
    (folder / "val" / VAL[-1] / f"ILSVRC2012_val_{len(VAL):08d}.JPEG").rename(tmp_path / "last")
    with pytest.raises(UserError, match=f"image {len(VAL)} of the challenge is missing"):
        plan_submission(open_folder(folder)[1], devkit, print)
    (folder / "val" / VAL[1] / "ILSVRC2012_val_00000002.JPEG").rename(tmp_path / "away")
    (folder / "val" / VAL[1] / "ILSVRC2012_val_00000009.JPEG").write_bytes((tmp_path / "away").read_bytes())
    with pytest.raises(UserError, match="image 2 of the challenge is missing"):
        plan_submission(open_folder(folder)[1], devkit, print)


def test_relabelled_images_are_the_same_images(archives: Path, tmp_path: Path) -> None:
    packed = open_packed(pack_here(archives, tmp_path / "packed", source="ilsvrc2012"))[1]
    by_id = Relabelled(packed, sorted(WORDS))
    assert by_id.classes == tuple(WORDS[wnid] for wnid in sorted(WORDS))
    assert [by_id.class_ids[label] for label in by_id.labels] == VAL
    assert all(np.array_equal(by_id.read(index), packed.read(index)) for index in range(len(VAL)))
