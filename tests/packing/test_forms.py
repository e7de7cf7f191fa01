"""The forms in which people have ImageNet: recognised, listed with the same classes, packed and trained from; or a sentence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.checks import check_settings
from alexnet_dist.data.packed import open_packed
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from alexnet_dist.packing.parquet import read_row
from alexnet_dist.packing.samples import Sample
from alexnet_dist.packing.sources import recognise
from alexnet_dist.results.submission import plan_submission
from alexnet_dist.training.inputs import open_root
from tests.commands import train
from tests.packing.forms import FORMS, WORDS, imagenet, listed, made, options_of, text, write_parquet
from tests.packing.miniature import encoded, pack_here, photo, run_prepare, write_tar


def content(sample: Sample) -> bytes:
    if sample.group is not None:
        return read_row(sample)
    with open(sample.path, "rb") as file:
        file.seek(sample.offset)
        return file.read(sample.length)


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
