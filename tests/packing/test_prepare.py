"""The command `prepare`, started as a person starts it: whole sets and refusals."""

import fcntl
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.data.odd_files import crop_square, decode
from alexnet_dist.data.packed import open_packed
from alexnet_dist.errors import UserError
from alexnet_dist.packing.samples import Sample
from alexnet_dist.packing.shards import ShardJob, make_shard
from alexnet_dist.prepare import main
from tests.packing.miniature import (
    SHARED_DATA,
    checksums,
    encoded,
    pack_here,
    photo,
    pixels_of,
    run_prepare,
    stem_of,
    write_files,
    write_ilsvrc2012,
)


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs the command in this process, sees that it ends with status 2, and returns what it said."""

    def run(*overrides: str) -> str:
        monkeypatch.setattr("sys.argv", ["prepare", *overrides])
        with pytest.raises(SystemExit) as leaving:
            main()
        assert leaving.value.code == 2
        return capsys.readouterr().err

    return run


def test_a_miniature_ilsvrc2012_is_packed_verified_and_gone_on_with(tmp_path, monkeypatch, capsys, refused):
    words = {"n00000002": "crane", "n00000001": "tench, Tinca tinca", "n00000003": "crane"}
    train = {
        wnid: {f"{wnid}_{number}.JPEG": encoded(photo(row * 100 + number)) for number in range(12)}
        for row, wnid in enumerate(words)
    }
    val = [(encoded(photo(1000 + number)), list(words)[number % 3]) for number in range(10)]
    write_ilsvrc2012(tmp_path / "archives", train, val, words)
    common = ("source=ilsvrc2012", f"root={tmp_path / 'archives'}", "size=32", "samples_per_shard=5")
    outputs = [tmp_path / "one", tmp_path / "three"]
    for output, workers in zip(outputs, (1, 3), strict=True):
        answer = run_prepare(*common, f"output={output}", f"workers={workers}")
        assert answer.returncode == 0, answer.stderr
        assert "46 of 46 files packed, 0 skipped" in answer.stdout
    assert checksums(outputs[0]) == checksums(outputs[1])

    train_images, val_images = open_packed(outputs[0])
    assert train_images.classes == tuple(words.values())
    assert train_images.class_ids == tuple(words)
    for index in range(len(train_images)):
        assert stem_of(train_images, index).split("_")[0] == list(words)[train_images.labels[index]]
    assert val_images.labels.tolist() == [number % 3 for number in range(10)]
    manifest = json.loads((outputs[0] / "manifest.json").read_text())
    assert manifest["splits"]["train"]["images"] == 36
    assert manifest["options"]["size"] == 32
    assert not (outputs[0] / ".preparing").exists()

    for words_of_command, said in (([*common, f"output={outputs[0]}"], "complete already"), ([f"verify={outputs[0]}"], "whole")):
        monkeypatch.setattr("sys.argv", ["prepare", *words_of_command])
        main()
        assert said in capsys.readouterr().out
    assert checksums(outputs[0]) == checksums(outputs[1])
    shard = outputs[0] / "val-000001.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 1
    shard.write_bytes(data)
    assert "val-000001.tar" in refused(f"verify={outputs[0]}", "workers=1")
    shard.unlink()
    assert f"{outputs[0]} is complete but for val-000001.tar: copy that again" in refused(*common, f"output={outputs[0]}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["bogus=1"], "bogus"),
        (["+bogus=1"], "bogus: is not a setting"),
        (["size=huge"], "size: "),
        (["size=4"], "size: input should be greater than or equal to 8, not 4"),
        (["quality=101"], "quality: input should be less than or equal to 100, not 101"),
        (["max_skipped=2"], "max_skipped: "),
        (["workers=0"], "workers: "),
        (["source=flickr"], "source: input should be 'auto', 'ilsvrc2012', 'kaggle'"),
        (["root=null"], "root: "),
        (["root=/nowhere"], "/nowhere is no folder"),
    ],
)
def test_a_bad_option_is_one_sentence_and_nothing_is_made(tmp_path, refused, overrides, said):
    output = tmp_path / "set"
    sentence = refused("source=imagefolder", f"root={tmp_path}", f"output={output}", *overrides)
    assert said in sentence
    assert len(sentence.splitlines()) == 1
    assert not output.exists()


def test_a_folder_that_is_anothers_is_refused(tmp_path, refused):
    source = write_files(tmp_path / "source", {f"train/a/{number}.jpg": encoded(photo(number)) for number in range(9)})
    foreign = write_files(tmp_path / "foreign", {"precious.txt": b"mine"})
    common = ("source=imagefolder", f"root={source}", "size=48", "samples_per_shard=8")
    assert "holds other files" in refused(*common, f"output={foreign}")
    assert "is a file" in refused(*common, f"output={foreign / 'precious.txt'}")
    assert os.listdir(foreign) == ["precious.txt"]
    assert f"lies among the images in {source / 'train'}: " in refused(*common, f"output={source / 'train' / 'packed'}")
    assert os.listdir(source / "train") == ["a"]

    output = pack_here(source, tmp_path / "set")
    before = checksums(output)
    assert "was begun with options" in refused(*common, f"output={output}", "quality=50")
    with open(output / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is preparing" in refused(*common, f"output={output}")
    (source / "train/a/10.jpg").write_bytes(encoded(photo(10)))
    assert "from other files" in refused(*common, f"output={output}")
    assert checksums(output) == before


def test_an_image_that_vanishes_stops_the_run_and_is_not_skipped(tmp_path):
    job = ShardJob(tmp_path, "train", 0, 0, [Sample("a/1.jpg", 0, str(tmp_path / "1.jpg"), 0, 100)], 48, 95, None)
    (tmp_path / ".preparing").mkdir()
    with pytest.raises(UserError, match=r"1\.jpg cannot be read any more"):
        make_shard(job)
    (tmp_path / "1.jpg").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"1\.jpg is shorter than it was"):
        make_shard(job)
    assert os.listdir(tmp_path / ".preparing") == []


def test_help_names_every_option():
    answer = run_prepare("--help")
    assert answer.returncode == 0
    for key in ("source", "root", "val_labels", "classes", "output", "size", "quality", "max_skipped", "workers", "verify"):
        assert f"{key}:" in answer.stdout


@pytest.mark.skipif(
    not (SHARED_DATA / "imagenet-300-samples.tar").is_file(), reason="the 300 photographs are not on this machine"
)
def test_three_hundred_photographs_go_through_the_ilsvrc2012_layout(tmp_path):
    train: dict[str, dict[str, bytes]] = {}
    words, val = {}, []
    with tarfile.open(SHARED_DATA / "imagenet-300-samples.tar") as tar:
        for member in tar:
            if member.isfile():
                wnid, name = Path(member.name).stem.split("_", 1)
                data = tar.extractfile(member).read()
                train[wnid] = {f"{wnid}_1.JPEG": data}
                words[wnid] = name.replace("_", " ")
                if len(val) < 30:
                    val.append((data, wnid))
    write_ilsvrc2012(tmp_path / "archives", train, val, words)
    answer = run_prepare("source=ilsvrc2012", f"root={tmp_path / 'archives'}", f"output={tmp_path / 'set'}")
    assert answer.returncode == 0, answer.stderr
    assert "330 of 330 files packed, 0 skipped" in answer.stdout
    assert run_prepare(f"verify={tmp_path / 'set'}").returncode == 0
    images, _ = open_packed(tmp_path / "set")
    assert len(images) == len(words)
    differences = []
    for index in range(0, 300, 15):
        wnid = images.class_ids[images.labels[index]]
        original = decode(train[wnid][f"{wnid}_1.JPEG"])[0]
        differences.append(np.abs(pixels_of(images, index) - np.asarray(crop_square(original, 256)).astype(int)).mean())
    # What quality 95 with colour at half resolution costs photographs of this kind: 2.2 grey levels.
    assert np.mean(differences) < 3
