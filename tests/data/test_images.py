import subprocess
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.data.images import open_folder
from alexnet_dist.errors import UserError
from tests.data.jpegs import make_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path, {"train": (3, 2), "val": (1, 2)})


def test_folder_lists_classes_labels_and_bytes(root: Path) -> None:
    train, val = open_folder(root, None)
    assert train.classes == val.classes == ("class0", "class1")
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert val.labels.tolist() == [0, 1, 1]
    assert train.labels.dtype == np.int64
    assert train.name(4) == str(root / "train/class1/0001.JPEG")
    assert train.read(4).tobytes() == (root / "train/class1/0001.JPEG").read_bytes()


def test_extensions_of_any_case_count_and_other_files_do_not(root: Path) -> None:
    folder = root / "train/class0"
    for name in ("b.PnG", "c.webp", "notes.txt", ".hidden.jpg"):
        (folder / name).write_bytes(b"x")
    (folder / "folder.jpg").mkdir()
    (root / "train/README").write_text("not a class")
    train, _ = open_folder(root, None)
    assert [Path(train.name(i)).name for i in range(5)] == ["0000.JPEG", "0001.JPEG", "0002.JPEG", "b.PnG", "c.webp"]


def test_names_outside_ascii(root: Path) -> None:
    (root / "train/class1/ö 1.jpg").write_bytes(b"bytes")
    train, _ = open_folder(str(root), None)
    assert train.read(5).tobytes() == b"bytes"


def test_every_nth_file_of_each_class_is_for_validation(tmp_path: Path) -> None:
    train, val = open_folder(make_folder(tmp_path, {"train": (10, 7, 2)}), 3)
    assert np.bincount(val.labels, minlength=3).tolist() == [3, 2, 0]
    assert np.bincount(train.labels).tolist() == [7, 5, 2]
    names = [split.name(i) for split in (train, val) for i in range(len(split))]
    assert len(set(names)) == 19
    assert [Path(val.name(i)).stem for i in range(3)] == ["0002", "0005", "0008"]


def test_val_may_lack_a_class_and_keeps_the_labels_of_train(root: Path) -> None:
    for file in (root / "val/class0").iterdir():
        file.unlink()
    (root / "val/class0").rmdir()
    _, val = open_folder(root, None)
    assert val.labels.tolist() == [1, 1]
    assert val.name(0) == str(root / "val/class1/0000.JPEG")


@pytest.mark.parametrize(
    ("spoil", "val_every", "message"),
    [
        ("rm -r train", None, "has no folder train/"),
        ("rm -r train; mkdir train", None, "no class folders"),
        ("mkdir train/empty", None, "train/empty holds no images"),
        ("rm val/class0/*", None, "val/class0 holds no images"),
        ("rm -r val", None, "has no folder val/"),
        ("rm -r val", 1, "val_every=1"),
        ("rm -r val", 50, "sets none aside"),
        ("mv val/class0 val/klass", None, "val/klass is a class that"),
        ("rm -r train val; rmdir .", None, "there is no folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(root: Path, spoil: str, val_every: int | None, message: str) -> None:
    subprocess.run(spoil.replace("rmdir .", f"rmdir {root}"), shell=True, cwd=root, check=True)
    with pytest.raises(UserError, match=message) as raised:
        open_folder(root, val_every)
    assert "\n" not in str(raised.value)


def test_file_that_is_gone_or_empty_is_named(root: Path) -> None:
    train, _ = open_folder(root, None)
    (root / "train/class0/0000.JPEG").unlink()
    (root / "train/class0/0001.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match=r"class0/0000\.JPEG cannot be read"):
        train.read(0)
    with pytest.raises(UserError, match=r"class0/0001\.JPEG is empty"):
        train.read(1)
