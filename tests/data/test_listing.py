"""Which files of a folder are images, and of which class: the same for train, prepare and predict."""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alexnet_dist.data.images import Images, open_folder
from alexnet_dist.data.pictures import find_pictures
from alexnet_dist.errors import UserError
from alexnet_dist.packing.samples import Sample
from alexnet_dist.packing.sources import list_source
from tests.packing.miniature import write_files

Seen = list[list[tuple[str, int]]] | str  # of train/ and val/ the paths and labels, or the sentence


def files(*names: str) -> Callable[[Path], object]:
    return lambda root: write_files(root, dict.fromkeys(names, b"-"))


def linked(*names: str, links: dict[str, str]) -> Callable[[Path], object]:
    """These files, and links to what they name."""

    def make(root: Path) -> None:
        files(*names)(root)
        for link, target in links.items():
            (root / link).symlink_to(target)

    return make


def empty_class(*names: str, empty: str) -> Callable[[Path], object]:
    return lambda root: (files(*names)(root), (root / empty).mkdir(parents=True))


LITTER = (".DS_Store", "._x.jpg", ".hidden.jpg", ".ipynb_checkpoints/x.jpg", "@eaDir/x.jpg", "Thumbs.db", "x.txt", "x.jpg.part")
ONE_OF_EACH = ("train/a/1.jpg", "train/b/1.jpg")
PLAIN: Seen = [[("a/1.jpg", 0), ("b/1.jpg", 1)], []]

FOLDERS: dict[str, tuple[Callable[[Path], object], Seen]] = {
    "plain": (files(*ONE_OF_EACH), PLAIN),
    "with val": (files(*ONE_OF_EACH, "val/b/1.jpg"), [PLAIN[0], [("b/1.jpg", 1)]]),
    "nested": (
        files("train/b/images/2.JPEG", "train/b/images/10.JPEG", "train/b/boxes.txt", "train/a/x/y/1.png", "train/a/2.png"),
        [[("a/2.png", 0), ("a/x/y/1.png", 0), ("b/images/10.JPEG", 1), ("b/images/2.JPEG", 1)], []],
    ),
    "odd endings": (
        files(*(f"train/a/{n}" for n in ("1.JPeG", "2.PnG", "3.webp", "4.TIF", "5.gif", "6.jpg.txt", "7", "jpg"))),
        [[("a/1.JPeG", 0), ("a/2.PnG", 0), ("a/3.webp", 0), ("a/4.TIF", 0)], []],
    ),
    "names of any kind": (
        files("train/a b/ö 1.jpg", "train/ä/1.jpg", os.fsdecode(b"train/a b/\xff.jpg")),
        [[("a b/ö 1.jpg", 0), (os.fsdecode(b"a b/\xff.jpg"), 0), ("ä/1.jpg", 1)], []],
    ),
    "litter": (
        files(*ONE_OF_EACH, "val/a/1.jpg", *(f"{place}/{name}" for place in ("train", "train/a/deep", "val") for name in LITTER)),
        [PLAIN[0], [("a/1.jpg", 0)]],
    ),
    "only litter": (files("train/a/1.jpg", "train/b/.ipynb_checkpoints/x.jpg"), "train/b holds no images"),
    "folder called as an image": (files(*ONE_OF_EACH, "train/b/z.jpg/1.jpg"), [[*PLAIN[0], ("b/z.jpg/1.jpg", 1)], []]),
    "linked class": (linked("pool/1.jpg", "train/a/1.jpg", links={"train/b": "../pool"}), PLAIN),
    "linked image": (linked(*ONE_OF_EACH, links={"train/a/2.jpg": "1.jpg"}), [[PLAIN[0][0], ("a/2.jpg", 0), PLAIN[0][1]], []]),
    "image linked to nothing": (linked(*ONE_OF_EACH, links={"train/b/2.jpg": "no"}), [[*PLAIN[0], ("b/2.jpg", 1)], []]),
    "class linked to nothing": (linked(*ONE_OF_EACH, links={"train/c": "../gone"}), "train/c cannot be listed"),
    "loops": (linked(*ONE_OF_EACH, links={"train/a/up": "..", "train/b/self": ".", "train/b/top": "../.."}), PLAIN),
    "class that is a loop": (linked(*ONE_OF_EACH, links={"train/c": "."}), "train/c holds no images"),
    "empty class": (empty_class(*ONE_OF_EACH, empty="train/aa"), "train/aa holds no images"),
    "empty class of val": (empty_class(*ONE_OF_EACH, "val/a/1.jpg", empty="val/b"), "val/b holds no images"),
    "unknown class of val": (files(*ONE_OF_EACH, "val/c/1.jpg"), "val/c is a class that"),
    "flat val": (files(*ONE_OF_EACH, "val/1.JPEG", "val/2.JPEG"), "^2 images of .*val lie in no class folder"),
    "partly flat val": (files(*ONE_OF_EACH, "val/a/1.jpg", "val/2.jpg"), "1 images of .*val lie in no .*, such as 2.jpg:"),
    "flat train": (files("train/1.jpg"), "1 images of .*train lie in no class folder"),
    "empty val": (empty_class(*ONE_OF_EACH, empty="val"), "val holds no class folders"),
    "no train": (files("a/1.jpg"), "has no folder train/"),
    "empty train": (files("train/.DS_Store"), "train holds no class folders"),
    "nothing": (lambda root: None, "is no folder"),
}  # fmt: skip


def of_train(root: Path) -> Seen:
    def listed(images: Images) -> list[tuple[str, int]]:
        return [(os.path.relpath(images.name(i), images.folder), int(images.labels[i])) for i in range(len(images))]  # type: ignore[attr-defined]

    try:
        return [listed(images) for images in open_folder(root)]
    except UserError as error:
        return str(error)


def of_prepare(root: Path) -> Seen:
    def listed(split: str, samples: Sequence[Sample]) -> list[tuple[str, int]]:
        assert all(os.path.join(root, split, sample.name) == sample.path for sample in samples)
        return [(sample.name, sample.label) for sample in samples]

    try:
        with ThreadPoolExecutor(1) as pool:
            source = list_source("imagefolder", root, False, pool)
        return [listed("train", source.train), listed("val", source.val)]
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(("make", "expected"), FOLDERS.values(), ids=FOLDERS)
def test_train_and_prepare_see_the_same_images_or_say_the_same_sentence(
    make: Callable[[Path], object], expected: Seen, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    make(root)
    seen = of_train(root)
    if isinstance(expected, str):
        assert isinstance(seen, str)
        assert re.search(expected, seen), seen
        assert "\n" not in seen
    else:
        assert seen == expected
    assert of_prepare(root) == seen


def test_predict_takes_of_a_folder_what_train_takes(tmp_path: Path) -> None:
    FOLDERS["litter"][0](tmp_path)
    (tmp_path / "train/b/up").symlink_to("..")
    found = find_pictures([str(tmp_path / "train")])
    assert found == [tmp_path / "train" / name for name, _ in PLAIN[0]]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(*ONE_OF_EACH)(tmp_path)
    list_folder = os.scandir

    def deny(folder: str) -> object:
        if os.fsdecode(folder).endswith("train/b"):
            raise PermissionError(13, "Permission denied", folder)
        return list_folder(folder)

    monkeypatch.setattr(os, "scandir", deny)  # root, as whom tests may run, is never denied
    assert "train/b cannot be listed (Permission denied)" in str(of_train(tmp_path))
    assert of_prepare(tmp_path) == of_train(tmp_path)
