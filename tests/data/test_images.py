import os
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.data.images import open_folder, read_annotations, set_aside
from alexnet_dist.errors import UserError
from tests.data.jpegs import InMemory, make_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path, {"train": (3, 2), "val": (1, 2)})


def test_folder_lists_classes_labels_and_bytes(root: Path) -> None:
    train, val = open_folder(root)
    assert train.classes == val.classes == ("class0", "class1")
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert val.labels.tolist() == [0, 1, 1]
    assert train.labels.dtype == np.int64
    assert train.name(4) == str(root / "train/class1/0001.JPEG")
    assert train.read(4).tobytes() == (root / "train/class1/0001.JPEG").read_bytes()


def test_names_outside_ascii(root: Path) -> None:
    (root / "train/class1/ö 1.jpg").write_bytes(b"bytes")
    train, _ = open_folder(str(root))
    assert train.read(5).tobytes() == b"bytes"


def test_every_nth_image_of_each_class_is_for_validation(tmp_path: Path) -> None:
    whole, _ = open_folder(make_folder(tmp_path, {"train": (10, 7, 2)}))
    train, val = set_aside(whole, 3)
    assert np.bincount(val.labels, minlength=3).tolist() == [3, 2, 0]
    assert np.bincount(train.labels).tolist() == [7, 5, 2]
    names = [split.name(i) for split in (train, val) for i in range(len(split))]
    assert len(set(names)) == 19
    assert [Path(val.name(i)).stem for i in range(3)] == ["0002", "0005", "0008"]
    assert val.read(1).tobytes() == Path(val.name(1)).read_bytes()


def test_images_of_mixed_classes_are_set_aside_by_class() -> None:
    train, val = set_aside(InMemory([bytes([i]) for i in range(7)], [1, 0, 1, 1, 0, 1, 2]), 2)
    assert [int(val.read(i)[0]) for i in range(len(val))] == [2, 4, 5]
    assert [int(train.read(i)[0]) for i in range(len(train))] == [0, 1, 3, 6]
    assert val.labels.tolist() == [1, 0, 1]


def test_val_may_lack_a_class_and_keeps_the_labels_of_train(root: Path) -> None:
    for file in (root / "val/class0").iterdir():
        file.unlink()
    (root / "val/class0").rmdir()
    _, val = open_folder(root)
    assert val.labels.tolist() == [1, 1]
    assert val.name(0) == str(root / "val/class1/0000.JPEG")


def test_file_that_is_gone_or_empty_is_named(root: Path) -> None:
    train, _ = open_folder(root)
    (root / "train/class0/0000.JPEG").unlink()
    (root / "train/class0/0001.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match=r"class0/0000\.JPEG cannot be read"):
        train.read(0)
    with pytest.raises(UserError, match=r"class0/0001\.JPEG is empty"):
        train.read(1)


def test_tiny_imagenet_as_it_comes(tmp_path: Path) -> None:
    for name in ("n2/images/n2_0.JPEG", "n1/images/n1_0.JPEG", "n1/images/n1_1.JPEG"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_bytes(name.encode())
    (tmp_path / "train" / "n1" / "n1_boxes.txt").write_text("n1_0.JPEG\t0\t0\t9\t9\n")
    images = tmp_path / "val" / "images"
    images.mkdir(parents=True)
    labels = {"val_0.JPEG": "n2", "val_1.JPEG": "n1", "val_10.JPEG": "n1"}
    for name in labels:
        (images / name).write_bytes(name.encode())
    listed = tmp_path / "val" / "val_annotations.txt"
    listed.write_text("".join(f"{name}\t{label}\t0\t32\t44\t62\n" for name, label in labels.items()))
    train, val = open_folder(tmp_path)
    assert train.classes == val.classes == ("n1", "n2")
    assert train.labels.tolist() == [0, 0, 1]
    assert {Path(val.name(i)).name: val.classes[val.labels[i]] for i in range(len(val))} == labels
    assert [val.read(i).tobytes().decode() for i in range(3)] == [Path(val.name(i)).name for i in range(3)]

    for name in ("ö.JPEG".encode(), "ö.JPEG".encode("latin-1")):
        (images / os.fsdecode(name)).write_bytes(name)
        listed.write_bytes(name + b"\tn2\n")
        assert open_folder(tmp_path)[1].read(0).tobytes() == name
    with pytest.raises(UserError, match=r"images cannot be read \(Is a directory\)"):
        read_annotations(images)

    listed.write_text("val_0.JPEG n2\n")
    with pytest.raises(UserError, match=r"val_annotations\.txt, line 1: there must be a file and its class"):
        open_folder(tmp_path)
    listed.write_text("val_0.JPEG\tn2\n" * 2)
    assert len(open_folder(tmp_path)[1]) == 1
    listed.write_text("val_0.JPEG\tn2\nval_0.JPEG\tn1\n")
    with pytest.raises(UserError, match=r"val_annotations\.txt, line 2: val_0\.JPEG has another class above"):
        open_folder(tmp_path)
    listed.write_text("val_0.JPEG\tn3\n")
    with pytest.raises(UserError, match="val/n3 is a class that"):
        open_folder(tmp_path)
