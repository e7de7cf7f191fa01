"""What `prepare` finds in each kind of source, and what it says of those that are not whole."""

import gzip
import pickle
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, Imagenette
from torchvision.datasets.utils import calculate_md5

from alexnet_dist.errors import UserError
from alexnet_dist.packing.labels import read_val_labels
from alexnet_dist.packing.samples import Sample, Source
from alexnet_dist.packing.sources import list_source
from tests.packing.miniature import write_files, write_ilsvrc2012

WORDS = {"n02000003": "crane", "n02000001": "tench, Tinca tinca", "n02000002": "crane"}


def listed(source: str, root: Path) -> Source:
    with ThreadPoolExecutor(2) as pool:
        return list_source(source, root, False, pool)


def content(sample: Sample) -> bytes:
    with open(sample.path, "rb") as file:
        file.seek(sample.offset)
        return file.read(sample.length)


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    train = {
        wnid: {f"{wnid}_{number}.JPEG": f"{wnid} {number}".encode() * 50 for number in range(3 + row)}
        for row, wnid in enumerate(WORDS)
    }
    val = [(f"val {number}".encode(), list(WORDS)[number % 3]) for number in range(7)]
    write_ilsvrc2012(tmp_path / "archives", train, val, WORDS)
    return tmp_path / "archives"


def test_ilsvrc2012_is_read_from_its_archives_in_the_devkits_order(archives):
    source = listed("ilsvrc2012", archives)
    assert [(entry.id, entry.words) for entry in source.classes] == list(WORDS.items())
    assert len(source.train) == 3 + 4 + 5
    for sample in source.train:
        wnid, file = sample.name.split("/")
        assert list(WORDS)[sample.label] == wnid
        assert content(sample) == f"{wnid} {Path(file).stem.split('_')[1]}".encode() * 50
    assert [sample.label for sample in source.val] == [number % 3 for number in range(7)]
    assert [content(sample) for sample in source.val] == [f"val {number}".encode() for number in range(7)]
    assert not (archives / "train").exists()


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"])
def test_an_archive_that_is_missing_or_cut_short_is_named(archives, name):
    archive = archives / name
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 3])
    with pytest.raises(UserError, match=name):
        listed("ilsvrc2012", archives)
    archive.unlink()
    with pytest.raises(UserError, match=f"lacks {name}"):
        listed("ilsvrc2012", archives)


def test_a_devkit_with_one_bit_turned_is_damaged_wherever_it_is(archives):
    archive = archives / "ILSVRC2012_devkit_t12.tar.gz"
    whole = archive.read_bytes()
    begin = whole.index(0, 10) + 1  # behind the archive's name, which says nothing
    refused = 0
    for place in range(begin, len(whole), len(whole) // 40):
        data = bytearray(whole)
        data[place] ^= 4
        archive.write_bytes(data)
        with suppress(OSError, EOFError, zlib.error):
            if gzip.decompress(data) == gzip.decompress(whole):
                continue  # a bit that fills up to a whole byte: a few of them mean nothing
        refused += 1
        with pytest.raises(UserError, match=archive.name):
            listed("ilsvrc2012", archives)
    assert refused > 30


def test_a_damaged_header_inside_the_train_archive_is_no_silent_end(archives):
    archive = archives / "ILSVRC2012_img_train.tar"
    data = bytearray(archive.read_bytes())
    header = data.index(b"n02000002_2.JPEG")
    data[header + 20] ^= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        listed("ilsvrc2012", archives)


def test_archives_that_do_not_belong_together_are_refused(archives, tmp_path):
    jpeg = {"n02000003": {"a.JPEG": b"a"}, "n02000001": {"b.JPEG": b"b"}}
    write_ilsvrc2012(archives, jpeg, [(b"v", "n02000001")], WORDS)
    with pytest.raises(UserError, match="lacks 1 classes, the first being n02000002"):
        listed("ilsvrc2012", archives)
    write_ilsvrc2012(archives, jpeg, [(b"v", "n02000001")], {"n02000003": "crane", "n02000001": "tench"})
    write_ilsvrc2012(tmp_path / "other", jpeg, [(b"v", "n02000001")] * 2, {"n02000003": "crane", "n02000001": "tench"})
    (tmp_path / "other" / "ILSVRC2012_img_val.tar").rename(archives / "ILSVRC2012_img_val.tar")
    with pytest.raises(UserError, match=r"2 images and .* ground truth of 1"):
        listed("ilsvrc2012", archives)


def test_the_fingerprint_follows_the_files_and_not_the_place(tmp_path):
    for place in ("one", "two"):
        write_files(tmp_path / place, {"train/a/1.jpg": b"1234", "train/b/1.jpg": b"12"})
    first, second = (listed("imagefolder", tmp_path / place).fingerprint() for place in ("one", "two"))
    assert first == second
    write_files(tmp_path / "two", {"train/b/1.jpg": b"123"})
    assert listed("imagefolder", tmp_path / "two").fingerprint() != first


def test_a_link_to_nothing_is_listed_as_unreadable(tmp_path):
    write_files(tmp_path, {"train/a/1.jpg": b"1"})
    (tmp_path / "train/a/2.jpg").symlink_to(tmp_path / "nowhere")
    assert [sample.length for sample in listed("imagefolder", tmp_path).train] == [1, -1]


def test_imagenette_is_read_from_its_folder(tmp_path):
    wnids = list(Imagenette._WNID_TO_CLASS)
    write_files(tmp_path / "imagenette2-160", {f"{split}/{wnid}/1.JPEG": b"1" for split in ("train", "val") for wnid in wnids})
    source = listed("imagenette", tmp_path)
    assert [entry.id for entry in source.classes] == sorted(wnids)
    assert source.classes[0].words == "tench"
    assert len(source.train) == len(source.val) == 10


def test_imagenette_that_was_not_wholly_unpacked_is_unpacked_anew(tmp_path, monkeypatch):
    wnids = list(Imagenette._WNID_TO_CLASS)
    names = [f"imagenette2-320/{split}/{wnid}/1.JPEG" for split in ("train", "val") for wnid in wnids]
    with tarfile.open(tmp_path / "imagenette2-320.tgz", "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    md5 = calculate_md5(tmp_path / "imagenette2-320.tgz")
    monkeypatch.setattr(Imagenette, "_ARCHIVES", {"320px": ("file:///nowhere/imagenette2-320.tgz", md5)})
    unpack = tarfile.TarFile.extractall

    def ended(archive, path, **options):
        unpack(archive, path, members=archive.getmembers()[:3], **options)
        raise OSError("it was ended here")

    monkeypatch.setattr(tarfile.TarFile, "extractall", ended)
    with pytest.raises(UserError, match="it was ended here"):
        listed("imagenette", tmp_path)
    monkeypatch.setattr(tarfile.TarFile, "extractall", unpack)
    assert len(listed("imagenette", tmp_path).val) == 10


def test_cifar10_is_read_from_its_files(tmp_path, monkeypatch):
    batches = tmp_path / CIFAR10.base_folder
    batches.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    written = {
        "data_batch_1": {"data": pixels.reshape(4, -1), "labels": [3, 1, 4, 1]},
        "test_batch": {"data": pixels[:2].reshape(2, -1), "labels": [0, 9]},
        "batches.meta": {"label_names": [f"class{number}" for number in range(10)]},
    }
    for name, entry in written.items():
        (batches / name).write_bytes(pickle.dumps(entry))
    md5 = {name: calculate_md5(batches / name) for name in written}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    source = listed("cifar10", tmp_path)
    assert [sample.label for sample in source.train] == [3, 1, 4, 1]
    assert [sample.label for sample in source.val] == [0, 9]
    assert source.train[2].data is not None
    assert source.train[2].data[-3072:] == pixels[2].transpose(1, 2, 0).tobytes()


@pytest.mark.parametrize("source", ["cifar10", "imagenette"])
def test_what_is_neither_there_nor_to_be_had_is_said(tmp_path, monkeypatch, source):
    monkeypatch.setattr(CIFAR10, "url", "file:///nowhere/cifar-10-python.tar.gz")
    monkeypatch.setattr(Imagenette, "_ARCHIVES", {"320px": ("file:///nowhere/imagenette2-320.tgz", "0")})
    with pytest.raises(UserError, match="could not be downloaded"):
        listed(source, tmp_path)


def test_a_list_names_classes_of_several_words(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("my first.jpg golden retriever\nb.jpg\tretriever\nc.jpg  golden retriever \nd.jpg 1\n")
    found = read_val_labels(tmp_path / "val.txt", ["golden retriever", "retriever"])
    assert found == {"my first.jpg": "golden retriever", "b.jpg": "retriever", "c.jpg": "golden retriever", "d.jpg": "retriever"}
