"""Reading a packed set: by number from memory, by a WebDataset reader, and what is said when it has gone bad."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.checks import check_settings
from alexnet_dist.data.packed import INDEX_ROW, is_packed, open_packed
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from alexnet_dist.packing.verify import check_shard
from alexnet_dist.training.inputs import open_root
from tests.packing.miniature import encoded, pack_here, photo, write_files


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    files = {f"train/{name}/{number}.jpg": encoded(photo(number)) for name in "abc" for number in range(7)}
    files |= {f"val/b/{number}.jpg": encoded(photo(100 + number)) for number in range(3)}
    return pack_here(write_files(folder / "source", files), folder / "set")


@pytest.fixture
def packed(packed_once, tmp_path) -> Path:
    """A copy to hurt."""
    for file in packed_once.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_samples_come_by_number_as_views_of_the_shards(packed):
    train, val = open_packed(packed)
    assert (len(train), len(val)) == (21, 3)
    assert train.classes == ("a", "b", "c")
    assert np.bincount(train.labels).tolist() == [7, 7, 7]
    assert train.labels.dtype == np.int64
    assert val.labels.tolist() == [1, 1, 1]
    for images in (train, val):
        for index in range(len(images)):
            shard, member = images.name(index).split(":")
            with tarfile.open(packed / shard) as tar:
                in_tar = tar.extractfile(member).read()
                label = tar.extractfile(member.replace(".jpg", ".cls")).read()
            view = images.read(index)
            assert view.tobytes() == in_tar
            assert int(label) == images.labels[index]
            assert (view.dtype, view.ndim, view.flags.writeable, view.flags.owndata) == (np.uint8, 1, False, False)
    assert np.shares_memory(train.read(0), train.read(0))


def test_shards_mix_the_classes(packed):
    train, _ = open_packed(packed)
    assert len(set(train.labels[:8].tolist())) == 3


def test_a_webdataset_reader_takes_the_shards(packed):
    webdataset = pytest.importorskip("webdataset", reason="the third-party reader is not installed")
    shards = sorted(str(path) for path in packed.glob("train-*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    train, _ = open_packed(packed)
    assert [sample["cls"] for sample in samples] == train.labels.tolist()
    assert all(sample["jpg"].size == (48, 48) for sample in samples)
    assert [f"{sample['__key__']}.jpg" for sample in samples] == [train.name(index).split(":")[1] for index in range(len(train))]


def test_a_flipped_byte_is_an_error_that_names_shard_and_sample(packed):
    train, _ = open_packed(packed)
    rows = np.load(packed / "train-index.npy")
    shard = packed / f"train-{rows['shard'][10]:06d}.tar"
    data = bytearray(shard.read_bytes())
    data[int(rows["offset"][10]) + 100] ^= 4
    shard.write_bytes(data)
    name = train.name(10)
    with pytest.raises(UserError, match=f"{name}.* has gone bad"):
        train.read(10)
    train.read(11)
    entry = json.loads((packed / "manifest.json").read_text())["splits"]["train"]["shards"][rows["shard"][10]]
    assert check_shard(packed, "train", int(rows["shard"][10]), entry) == [
        f"{shard.name}: its checksum is not the manifest's",
        f"{name}: the sample has gone bad",
    ]


def test_a_shard_that_is_missing_or_cut_short_is_an_error_that_names_it(packed):
    train, _ = open_packed(packed)
    shard = packed / "train-000001.tar"
    with open(shard, "r+b") as file:
        file.truncate(5000)
    with pytest.raises(UserError, match=r"train-000001\.tar has 5000 bytes"):
        train.read(len(train) // 2)
    with pytest.raises(UserError, match=r"train-000001\.tar has 5000 bytes"):
        open_packed(packed)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-000001\.tar cannot be opened"):
        open_packed(packed)


def test_what_is_no_packed_set_is_said(packed, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    assert not is_packed(empty)
    with pytest.raises(UserError, match="holds no packed set"):
        open_packed(empty)
    (packed / "manifest.json").rename(packed / "elsewhere")
    (packed / ".preparing").mkdir()
    assert is_packed(packed)
    with pytest.raises(UserError, match="not finished"):
        open_packed(packed)
    (packed / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is not the manifest of"):
        open_packed(packed)
    (packed / "manifest.json").write_text((packed / "elsewhere").read_text())
    (packed / "train-index.npy").write_bytes((packed / "val-index.npy").read_bytes())
    with pytest.raises(UserError, match=r"index .* is not the one"):
        open_packed(packed)
    (packed / "train-index.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"index .* cannot be read"):
        open_packed(packed)


def test_a_set_without_validation_images_opens(tmp_path):
    source = write_files(tmp_path / "source", {"train/a/1.jpg": encoded(photo(1))})
    train, val = open_packed(pack_here(source, tmp_path / "set"))
    assert (len(train), len(val)) == (1, 0)
    assert val.labels.shape == (0,)


def test_a_set_without_validation_images_is_trained_with_some_set_aside(tmp_path):
    source = write_files(tmp_path / "source", {f"train/{c}/{n}.jpg": encoded(photo(n)) for c in "ab" for n in range(6)})
    packed = pack_here(source, tmp_path / "set")

    def opened(*words):
        return open_root(packed, check_settings(compose("train", ["data=imagenet", f"data.root={packed}", *words])).data)

    with pytest.raises(UserError, match=r"has no validation images.*data\.val_every=10"):
        opened()
    with pytest.raises(UserError, match=r"data\.val_every=7 sets none aside"):
        opened("data.val_every=7")
    train, val = opened("data.val_every=3")
    assert np.bincount(train.labels).tolist() == [4, 4]
    assert np.bincount(val.labels).tolist() == [2, 2]
    assert len({split.name(i) for split in (train, val) for i in range(len(split))}) == 12
    assert all(split.read(i)[:2].tobytes() == b"\xff\xd8" for split in (train, val) for i in range(len(split)))


OPEN_MANY = """
import resource, sys
from alexnet_dist.data.packed import open_packed
resource.setrlimit(resource.RLIMIT_NOFILE, (20, int(sys.argv[2])))
train, _ = open_packed(sys.argv[1])
print(sum(len(train.read(index)) > 0 for index in range(len(train))))
"""


def test_more_shards_than_a_process_may_have_open_are_read_or_named(tmp_path):
    source = write_files(tmp_path / "source", {f"train/a/{n}.jpg": encoded(photo(n)) for n in range(40)})
    packed = pack_here(source, tmp_path / "set", samples_per_shard=1)

    def read(hard):
        command = [sys.executable, "-c", OPEN_MANY, str(packed), str(hard)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert read(2000).stdout == "40\n"
    refused = read(30).stderr.splitlines()[-1]
    assert refused.startswith("alexnet_dist.errors.UserError: shard ")
    assert refused.endswith("there are 40, and `ulimit -n` says how many files a process may have open")


OPEN_AND_MEASURE = """
import sys, time, psutil, numpy as np
from alexnet_dist.data.packed import open_packed
took = []
for _ in range(3):  # the machine may do something else meanwhile
    began = time.perf_counter()
    train, val = open_packed(sys.argv[1])
    took.append(time.perf_counter() - began)
for index in (0, 5, 4095):
    train.read(index)
print(len(train), min(took), psutil.Process().memory_info().rss / 2**20, len(train.classes), train.labels.sum())
"""


def test_the_index_of_imagenet_opens_at_once_and_in_little_memory(tmp_path, packed):
    """1,281,167 made-up samples in 313 shards, all but the first of them holes as long as real shards are."""
    samples, per_shard = 1_281_167, 4096
    jpeg = encoded(Image.new("RGB", (8, 8)))
    rows = np.zeros(samples, INDEX_ROW)
    numbers = np.arange(samples)
    rows["shard"], rows["offset"] = numbers // per_shard, 512 + numbers % per_shard * 32_768
    rows["length"], rows["label"] = len(jpeg), numbers % 1000
    from zlib import crc32

    rows["crc"] = crc32(jpeg)
    shards = -(-samples // per_shard)
    for number in range(shards):
        with open(tmp_path / f"train-{number:06d}.tar", "wb") as file:
            file.truncate(per_shard * 32_768)
            if number == 0:
                for offset in rows["offset"][:per_shard].tolist():
                    file.seek(offset)
                    file.write(jpeg)
    np.save(tmp_path / "train-index.npy", rows)
    manifest = json.loads((packed / "manifest.json").read_text())
    manifest["classes"] = [{"id": f"n{number:08d}", "words": f"class {number}"} for number in range(1000)]
    manifest["splits"]["train"] = {
        "images": samples,
        "shards": [
            {"file": f"train-{number:06d}.tar", "bytes": per_shard * 32_768, "images": 0, "sha256": ""}
            for number in range(shards)
        ],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    command = [sys.executable, "-c", OPEN_AND_MEASURE, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    count, seconds, megabytes, classes, total = (float(word) for word in answer.stdout.split())
    assert (count, classes, total) == (samples, 1000, int((numbers % 1000).sum()))
    assert seconds < 0.5
    assert megabytes < 150
