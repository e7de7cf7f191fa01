"""The forms in which people have ImageNet: recognised, listed with the same classes, packed and trained from; or a sentence."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from alexnet_dist.checks import check_settings
from alexnet_dist.data.packed import open_packed
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from alexnet_dist.packing.labels import read_val_labels
from alexnet_dist.packing.parquet import read_row
from alexnet_dist.packing.samples import Sample, Source
from alexnet_dist.packing.sources import list_source, recognise
from alexnet_dist.results.submission import plan_submission
from alexnet_dist.training.inputs import open_root
from tests.commands import train
from tests.packing.forms import FORMS, cut_short, imagenet, tar_without, write_parquet
from tests.packing.miniature import encoded, pack_here, photo, run_prepare, write_files, write_tar

# In another order than that of their ids.
WORDS = {"n02000003": "crane", "n02000001": "tench, Tinca tinca", "n02000004": "goldfish", "n02000002": "crane bird"}


def listed(root: Path, form: str | None = None, **options: str) -> Source:
    with ThreadPoolExecutor(2) as pool:
        return list_source(form or recognise(root), root, False, pool, **options)  # type: ignore[arg-type]


def text(wnid: str, number: int) -> bytes:
    return f"{wnid} {number}".encode()


def made(form: str, root: Path) -> Path:
    FORMS[form](root, WORDS, *imagenet(WORDS, 4, text))
    return root


def content(sample: Sample) -> bytes:
    if sample.group is not None:
        return read_row(sample)
    with open(sample.path, "rb") as file:
        file.seek(sample.offset)
        return file.read(sample.length)


def options_of(form: str, root: Path) -> dict[str, str]:
    return {"val_labels": str(root / "val.txt")} if form == "imagefolder" else {}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_recognised_and_a_thousand_classes_are_in_order(form: str, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    ids = [f"n{number:08d}" for number in random.choice(99_999_999, 1000, replace=False)]
    words = {wnid: f"words of {wnid}" for wnid in ids}
    FORMS[form](tmp_path / "images", words, *imagenet(words, 2, text))
    assert recognise(tmp_path / "images") == form

    source = listed(tmp_path / "images", **options_of(form, tmp_path / "images"))
    order = ids if form == "ilsvrc2012" else sorted(ids)
    assert [entry.id for entry in source.classes] == order
    if form not in ("imagefolder", "webdataset"):  # which have none
        assert [entry.words for entry in source.classes] == [words[wnid] for wnid in order]
    assert len(source.train) == 2000
    assert len(source.val) == 1000
    for sample in [*source.train[::7], *source.val[::7]]:
        assert content(sample).split()[0].decode() == order[sample.label]


@pytest.mark.slow
@pytest.mark.parametrize("form", [form for form in FORMS if form != "ilsvrc2012"])
def test_every_form_is_packed_verified_and_trained_for_two_steps(form: str, tmp_path: Path) -> None:
    root, output = tmp_path / "images", tmp_path / "set"

    def picture(wnid: str, number: int) -> bytes:
        return encoded(photo(int(wnid[1:]) * 10 + number, 80, 64))

    FORMS[form](root, WORDS, *imagenet(WORDS, 5, picture))
    given = [f"{name}={value}" for name, value in options_of(form, root).items()]
    packed = run_prepare(f"root={root}", f"output={output}", "size=64", "workers=1", *given)
    assert packed.returncode == 0, packed.stderr
    assert f"is taken for source={form}" in packed.stdout
    assert "24 of 24 files packed, 0 skipped" in packed.stdout
    assert run_prepare(f"verify={output}", "workers=1").returncode == 0
    images, validation = open_packed(output)
    assert images.class_ids == validation.class_ids == tuple(sorted(WORDS))
    for index in range(len(images)):
        assert images.class_ids[images.labels[index]] in images.name(index)
    named = {validation.name(index).split("_val_")[1]: images.class_ids[label] for index, label in enumerate(validation.labels)}
    assert [named[name] for name in sorted(named)] == list(reversed(WORDS))

    done = train(f"data.root={output}", "trainer.batch_size=8", "trainer.max_steps=2", "parallel.processes=1", cwd=tmp_path)
    assert "20 training and 4 validation images in 4 classes" in done.stdout


def test_a_class_map_gives_the_order(tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("\ufeffn02000004 gold\nn02000001\nn02000002\nn02000003\n", "utf-8")
    for form in FORMS:
        root = made(form, tmp_path / form)
        source = listed(root, classes=str(classes), **options_of(form, root))
        assert [entry.id for entry in source.classes] == ["n02000004", "n02000001", "n02000002", "n02000003"]
        assert source.classes[0].words == "gold"
        for sample in [*source.train, *source.val]:
            assert content(sample).split()[0].decode() == source.classes[sample.label].id
    assert listed(tmp_path / "kaggle", classes=str(classes)).classes[1].words == WORDS["n02000001"]


def test_archives_in_another_order_are_not_taken_for_the_devkits(tmp_path: Path) -> None:
    words = {**WORDS, "n02000005": "ox"}
    files = imagenet(words, 1, lambda wnid, number: encoded(photo(int(wnid[1:]) + number, 32, 32)))
    FORMS["ilsvrc2012"](tmp_path / "images", words, *files)
    (tmp_path / "classes.txt").write_text("\n".join(sorted(words)))
    devkits = pack_here(tmp_path / "images", tmp_path / "devkits", source="ilsvrc2012", size=32)
    plan = plan_submission(open_packed(devkits)[1], None, print)
    assert plan.numbers == {wnid: number for number, wnid in enumerate(words, 1)}
    options = {"source": "ilsvrc2012", "size": 32, "classes": str(tmp_path / "classes.txt")}
    own = pack_here(tmp_path / "images", tmp_path / "own", **options)
    with pytest.raises(UserError, match="only the devkit knows"):
        plan_submission(open_packed(own)[1], None, print)


def test_classes_that_have_only_numbers_are_named_by_a_class_map(tmp_path: Path) -> None:
    members = {}
    for number in range(4):
        members |= {f"{number:03d}.jpg": b"-", f"{number:03d}.cls": b"%d" % (number % 2)}
    tmp_path.joinpath("images").mkdir()
    write_tar(tmp_path / "images" / "train-000.tar", members)
    (tmp_path / "names.txt").write_text("zebra\nape\n")
    assert [entry.id for entry in listed(tmp_path / "images").classes] == ["0", "1"]
    source = listed(tmp_path / "images", classes=str(tmp_path / "names.txt"))
    assert [entry.id for entry in source.classes] == ["zebra", "ape"]
    assert [sample.label for sample in source.train] == [0, 1, 0, 1]


def test_classes_that_are_called_by_numbers_are_reordered_by_a_map_of_the_same_numbers(tmp_path: Path) -> None:
    for name in "012":
        (tmp_path / "images" / "train" / name).mkdir(parents=True)
        (tmp_path / "images" / "train" / name / f"of_{name}.jpg").write_bytes(b"-")
    (tmp_path / "order.txt").write_text("2\n1\n0\n")
    source = listed(tmp_path / "images", classes=str(tmp_path / "order.txt"))
    assert [entry.id for entry in source.classes] == ["2", "1", "0"]
    assert sorted((sample.name[-5], sample.label) for sample in source.train) == [("0", 2), ("1", 1), ("2", 0)]


def test_a_source_without_validation_images_is_trained_from_with_val_every(tmp_path: Path) -> None:
    files = [(f"{number}.JPEG", "", encoded(photo(number, 32, 32))) for number in range(12)]
    write_parquet(tmp_path / "images/train-00000-of-00001.parquet", files, [number % 2 for number in range(12)])
    packed = pack_here(tmp_path / "images", tmp_path / "set", source="parquet", size=32)
    data = check_settings(compose("train", [f"data.root={packed}"])).data
    with pytest.raises(UserError, match=r"data\.val_every=10"):
        open_root(packed, data)
    train_images, val_images = open_root(packed, replace(data, val_every=3))
    assert np.bincount(train_images.labels).tolist() == [4, 4]
    assert np.bincount(val_images.labels).tolist() == [2, 2]


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
    "cut tar": ("webdataset", lambda root: cut_short(root / "imagenet1k-train-0001.tar"), "damaged or cut short"),
    "no images": ("webdataset", lambda root: tar_without(root / "imagenet1k-validation-00.tar", ".jpg"), "holds no images"),
    "label in words": (
        "webdataset",
        lambda root: write_tar(root / "imagenet1k-train-0000.tar", {"a.jpg": b"-", "a.cls": b"tench"}),
        "a.cls must hold the label in digits, not b'tench'",
    ),
    "a class without images": (
        "webdataset",
        lambda root: write_tar(root / "imagenet1k-train-0001.tar", {"a.jpg": b"-", "a.cls": b"7"}),
        "no training image with the label 4, of 8 classes",
    ),
    "a label beyond all": (
        "webdataset",
        lambda root: write_tar(root / "imagenet1k-train-0001.tar", {"a.jpg": b"-", "a.cls": b"99999999999999"}),
        "no training image with the label 4, of 100000000000000 classes",
    ),
    "a name twice": (
        "webdataset",
        lambda root: write_tar(root / "imagenet1k-train-0001.tar", {"a.jpg": b"-", "a.png": b"-", "a.cls": b"0"}),
        "a.jpg and a.png are images of one sample",
    ),
    "two labels": (
        "webdataset",
        lambda root: write_tar(root / "imagenet1k-train-0001.tar", {"a.jpg": b"-", "a.json": b'{"label": 1}', "a.cls": b"0"}),
        "a.cls has the label 0, and another file of that sample 1",
    ),
    "a label alone": (
        "webdataset",
        lambda root: write_tar(root / "imagenet1k-train-0001.tar", {"a.jpg": b"-", "a.cls": b"0", "b.gif": b"-", "b.cls": b"0"}),
        "b has a label and no image",
    ),
    "no csv": ("kaggle", _without(SOLUTION), f"lacks {SOLUTION}"),
    "another csv": ("kaggle", _rewritten(SOLUTION, lambda text: "a,b\n1,2\n"), "lacks the columns ImageId and PredictionString"),
    "image not in the csv": ("kaggle", _rewritten(SOLUTION, lambda text: text.rsplit("\n", 1)[0]), "val_00000004.JPEG is not in"),
    "class unknown to train": ("kaggle", _rewritten(SOLUTION, _renamed_class), "the class 'n02000009', which the training"),
    "images that are missing": ("kaggle", _without("ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG"), "names 1 images"),
    "no annotations": ("tiny_imagenet", _without("val/val_annotations.txt"), r"lacks val/val_annotations\.txt"),
    "a class of val": ("tiny_imagenet", _rewritten("val/val_annotations.txt", _renamed_class), "val/n02000009 is a class that"),
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


def test_a_link_that_leads_nowhere_is_one_sentence(tmp_path: Path) -> None:
    root = made("webdataset", tmp_path / "images")
    (root / "imagenet1k-train-0002.tar").symlink_to(tmp_path / "pruned")
    with pytest.raises(UserError, match=r"imagenet1k-train-0002\.tar cannot be read \(No such file"):
        listed(root)


def test_a_list_names_classes_of_several_words(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("my first.jpg golden retriever\nb.jpg\tretriever\nc.jpg  golden retriever \nd.jpg 1\n")
    found = read_val_labels(tmp_path / "val.txt", ["golden retriever", "retriever"])
    assert found == {"my first.jpg": "golden retriever", "b.jpg": "retriever", "c.jpg": "golden retriever", "d.jpg": "retriever"}


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
