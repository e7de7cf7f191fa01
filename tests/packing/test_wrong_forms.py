"""Forms of ImageNet of which something is missing or does not belong: each is told in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from alexnet_dist.errors import UserError
from alexnet_dist.packing.sources import recognise
from tests.packing.forms import WORDS, cut_short, listed, made, options_of, tar_without, write_parquet
from tests.packing.miniature import write_files, write_tar


def _with_columns(root: Path, **columns: object) -> None:
    parquet.write_table(pa.table(columns), root / "data/train-00000-of-00002.parquet")


def _described(root: Path, about: str) -> None:
    part = root / "data/train-00000-of-00002.parquet"
    parquet.write_table(parquet.read_table(part).replace_schema_metadata({"huggingface": about}), part)


def _relabelled(root: Path) -> None:
    """Of two images of one class one has another's label."""
    files = [("n02000001_1.JPEG", "", b"-"), ("n02000002_1.JPEG", "", b"-"), ("n02000001_2.JPEG", "", b"-")]
    write_parquet(root / "data/train-00000-of-00002.parquet", files, [0, 1, 1])


def _without(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def _rewritten(name: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(change((root / name).read_text()))


def _with_train_tar(number: int, members: dict[str, bytes]) -> Callable[[Path], object]:
    return lambda root: write_tar(root / f"imagenet1k-train-{number:04d}.tar", members)


def _renamed_class(text: str) -> str:
    return text.replace("n02000004", "n02000009")


IMAGE = {"image": [{"bytes": b"-", "path": "x"}]}
LABELS = {"info": {"features": {"label": {"names": ["tench", "goldfish"]}}}}
SOLUTION = "LOC_val_solution.csv"
WRONG: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no column image": ("parquet", lambda root: _with_columns(root, img=[b"-"], label=[0]), "no column image with .* img, label"),
    "bare bytes": ("parquet", lambda root: _with_columns(root, image=[b"-"], label=[0]), "no column image with bytes in it"),
    "no column label": ("parquet", lambda root: _with_columns(root, **IMAGE, fine=[0]), "no column label of .* image, fine"),
    "labels in words": ("parquet", lambda root: _with_columns(root, **IMAGE, label=["cat"]), "no column label of whole numbers"),
    "a part is missing": ("parquet", _without("data/train-00000-of-00002.parquet"), "lacks train-00000-of-00002.parquet"),
    "a part is missing, and names have sums": (
        "parquet",
        lambda root: [
            path.rename(path.with_name(f"{path.stem}-0123456789abcdef.parquet"))
            for path in sorted(root.glob("data/train-*"))[:1]
        ]
        and _without("data/train-00001-of-00002.parquet")(root),
        "lacks train-00001-of-00002.parquet",
    ),
    "cut parquet": ("parquet", lambda root: cut_short(root / "data/train-00001-of-00002.parquet"), "damaged or cut short"),
    "cut description": ("parquet", lambda root: _described(root, '{"info": {'), "describes its labels in no way that is known"),
    "a description of nothing": ("parquet", lambda root: _described(root, '{"info": []}'), "describes its labels in no way"),
    "other names": ("parquet", lambda root: _described(root, json.dumps(LABELS)), "calls the classes otherwise than other files"),
    "labels disagree": ("parquet", _relabelled, "labels disagree with the names of the images: n0200000"),
    "no training": ("parquet", lambda root: [path.unlink() for path in root.glob("data/train-*")], "no parquet files of train"),
    "no labels": ("webdataset", lambda root: tar_without(root / "imagenet1k-train-0001.tar", ".cls"), "has no label beside it"),
    "a link to nothing": (
        "webdataset",
        lambda root: (root / "imagenet1k-train-0002.tar").symlink_to(root / "pruned"),
        r"imagenet1k-train-0002\.tar cannot be read \(No such file",
    ),
    "cut tar": ("webdataset", lambda root: cut_short(root / "imagenet1k-train-0001.tar"), "damaged or cut short"),
    "no images": ("webdataset", lambda root: tar_without(root / "imagenet1k-validation-00.tar", ".jpg"), "holds no images"),
    "label in words": (
        "webdataset",
        _with_train_tar(0, {"a.jpg": b"-", "a.cls": b"tench"}),
        "a.cls must hold the label in digits, not b'tench'",
    ),
    "a label that is no whole number": (
        "webdataset",
        _with_train_tar(0, {"a.jpg": b"-", "a.json": b'{"label": 3.7}'}),
        "a.jpg has no label beside it",
    ),
    "a label without bounds": (
        "webdataset",
        _with_train_tar(0, {"a.jpg": b"-", "a.json": b'{"label": Infinity}'}),
        "a.jpg has no label beside it",
    ),
    "a class without images": (
        "webdataset",
        _with_train_tar(1, {"a.jpg": b"-", "a.cls": b"7"}),
        "no training image with the label 4, of 8 classes",
    ),
    "a label beyond all": (
        "webdataset",
        _with_train_tar(1, {"a.jpg": b"-", "a.cls": b"99999999999999"}),
        "no training image with the label 4, of 100000000000000 classes",
    ),
    "a name twice": (
        "webdataset",
        _with_train_tar(1, {"a.jpg": b"-", "a.png": b"-", "a.cls": b"0"}),
        "a.jpg and a.png are images of one sample",
    ),
    "two labels": (
        "webdataset",
        _with_train_tar(1, {"a.jpg": b"-", "a.json": b'{"label": 1}', "a.cls": b"0"}),
        "a.cls has the label 0, and another file of that sample 1",
    ),
    "a label alone": (
        "webdataset",
        _with_train_tar(1, {"a.jpg": b"-", "a.cls": b"0", "b.gif": b"-", "b.cls": b"0"}),
        "b has a label and no image",
    ),
    "no csv": ("kaggle", _without(SOLUTION), f"lacks {SOLUTION}"),
    "another csv": ("kaggle", _rewritten(SOLUTION, lambda text: "a,b\n1,2\n"), "lacks the columns ImageId and PredictionString"),
    "two classes in the csv": (
        "kaggle",
        _rewritten(SOLUTION, lambda text: text + "\n" + text.rsplit("\n", 1)[1].replace("n0", "n1")),
        "gives .* two classes, ",
    ),
    "image not in the csv": ("kaggle", _rewritten(SOLUTION, lambda text: text.rsplit("\n", 1)[0]), "val_00000004.JPEG is not in"),
    "class unknown to train": ("kaggle", _rewritten(SOLUTION, _renamed_class), "the class 'n02000009', which the training"),
    "images that are missing": ("kaggle", _without("ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG"), "names 1 images"),
    "no annotations": ("tiny_imagenet", _without("val/val_annotations.txt"), r"lacks val/val_annotations\.txt"),
    "a class of val": ("tiny_imagenet", _rewritten("val/val_annotations.txt", _renamed_class), "val/n02000009 is a class that"),
    "words that are none": (
        "tiny_imagenet", lambda root: (root / "words.txt").write_bytes(b"n02000001\tcaf\xe9"), r"^[^=]*words\.txt cannot be read"
    ),
    "line that is none": ("imagefolder", _rewritten("val.txt", lambda text: text + "x.JPEG n7\n"), "line 5: there must be"),
    "number too high": ("imagefolder", _rewritten("val.txt", lambda text: text.replace(" 3", " 4")), "a number below 4"),
    "file unlisted": ("imagefolder", _rewritten("val.txt", lambda text: text.split("\n", 1)[1]), "val_00000001.JPEG is not in"),
    "no list": ("imagefolder", _without("val.txt"), r"val\.txt cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "spoil", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_sentence(form: str, spoil: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    root = made(form, tmp_path / "images")
    options = options_of(form, root)
    listed(root, form, **options)
    spoil(root)
    with pytest.raises(UserError, match=said) as refused:
        listed(root, form, **options)
    assert "\n" not in str(refused.value)


def test_archives_that_lack_between_others_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made("webdataset", tmp_path / "images")
    for number in (4, 7):
        (root / f"imagenet1k-train-{number:04}.tar").write_bytes((root / "imagenet1k-train-0001.tar").read_bytes())
    listed(root)
    name = "imagenet1k-train"
    lacking = f"4 of the archives between {name}-0000.tar and {name}-0007.tar, such as {name}-0002.tar"
    assert capsys.readouterr().err == f"warning: {root} lacks {lacking}: their images are not packed\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["n02000001", "n02000002", "n02000003"], "lacks n02000004, a class of the source"),
        ([*WORDS, "n02000005"], "names n02000005, which is no class"),
        ([*WORDS, "n02000001"], "names n02000001 twice"),
        ([], "is empty"),
    ],
)
def test_a_class_map_of_other_classes_is_refused(lines: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    with pytest.raises(UserError, match=said):
        listed(made("kaggle", tmp_path / "images"), classes=str(tmp_path / "classes.txt"))


def test_a_folder_of_no_form_is_refused_and_the_one_inside_it_named(tmp_path: Path) -> None:
    write_files(tmp_path / "other", {"notes.txt": b"-"})
    with pytest.raises(UserError, match="in no form that is known: name its form with source="):
        recognise(tmp_path / "other")
    made("tiny_imagenet", tmp_path / "outer" / "tiny-imagenet-200")
    with pytest.raises(UserError, match=r"set root=.*/outer/tiny-imagenet-200"):
        recognise(tmp_path / "outer")
    with pytest.raises(UserError, match=r"val_labels=x.txt is for source=imagefolder, and this is tiny_imagenet"):
        listed(tmp_path / "outer" / "tiny-imagenet-200", val_labels="x.txt")
