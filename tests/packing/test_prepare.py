"""The command `prepare`, started as a person starts it: whole sets, odd files, refusals, statistics."""

import fcntl
import json
import os
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from PIL import Image
from torchvision.transforms.functional import center_crop

from alexnet_dist.data.odd_files import UnusableImageError, crop_square, decode
from alexnet_dist.data.packed import PackedImages, open_packed, read_statistics
from alexnet_dist.errors import UserError
from alexnet_dist.packing.samples import Sample
from alexnet_dist.packing.shards import ShardJob, make_shard
from alexnet_dist.prepare import main
from tests.packing.miniature import (
    SHARED_DATA,
    checksums,
    encoded,
    odd_but_good,
    pack_here,
    photo,
    run_prepare,
    unusable,
    write_files,
    write_ilsvrc2012,
)


def pixels_of(images: PackedImages, index: int) -> np.ndarray:
    return np.asarray(decode(images.read(index).tobytes())[0]).astype(int)


def stem_of(images: PackedImages, index: int) -> str:
    return images.name(index).split(":")[1].split("_", 1)[1].removesuffix(".jpg")


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


def test_every_odd_file_is_taken_right_or_named(tmp_path):
    picture = photo(3, 64, 48)
    good, bad = odd_but_good(picture), unusable()
    files = {f"train/odd/{name}.JPEG": data for name, (data, _) in {**good, **bad}.items()}
    files["train/plain/plain.JPEG"] = encoded(picture)
    source = write_files(tmp_path / "source", files)
    common = ("source=imagefolder", f"root={source}", f"output={tmp_path / 'set'}", "size=48", "quality=100")

    answer = run_prepare(*common)
    assert answer.returncode == 2
    assert "4 of 20 files were skipped, more than max_skipped=0.001" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert (tmp_path / "set" / "skipped.tsv").exists()
    answer = run_prepare(*common, "max_skipped=0.5")
    assert answer.returncode == 0, answer.stderr
    assert "16 of 20 files packed, 4 skipped" in answer.stdout

    header, *lines = (tmp_path / "set" / "skipped.tsv").read_text().splitlines()
    assert header == "split\tfile\treason"
    named = {line.split("\t")[1]: line.split("\t")[2] for line in lines}
    assert set(named) == {f"odd/{name}.JPEG" for name in bad}
    for name, (_, word) in bad.items():
        assert word in named[f"odd/{name}.JPEG"]

    images, _ = open_packed(tmp_path / "set")
    shown = {name: image for name, (_, image) in good.items()} | {"plain": picture}
    assert {stem_of(images, index) for index in range(len(images))} == set(shown)
    for index in range(len(images)):
        expected = np.asarray(crop_square(shown[stem_of(images, index)], 48)).astype(int)
        # Quality 100 at half the colour resolution, and twice where the file was a JPEG: some grey levels.
        assert np.abs(pixels_of(images, index) - expected).mean() < 4, stem_of(images, index)


@pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
def dali_decoder():
    return fn.decoders.image(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1))


def test_originals_are_kept_where_dali_shows_them_as_they_are(tmp_path):
    picture = photo(4, 64, 48)
    good = odd_but_good(picture)
    files = {f"train/odd/{name}.JPEG": data for name, (data, _) in good.items()}
    output = pack_here(write_files(tmp_path / "source", files), tmp_path / "set", size="keep")
    images, _ = open_packed(output)
    assert len(images) == len(good)
    kept = set()
    decoder = dali_decoder()
    decoder.build()
    for index in range(len(images)):
        name, stored = stem_of(images, index), images.read(index)
        if stored.tobytes() == good[name][0]:
            kept.add(name)
        decoder.feed_input("encoded", [stored])
        shown = decoder.run()[0].as_cpu().at(0).astype(int)
        assert shown.shape == (48, 64, 3)
        assert np.abs(shown - np.asarray(good[name][1]).astype(int)).mean() < 4, name
    assert kept == {"grey", "progressive", "brokenexif"}
    assert read_statistics(output).mean_image.shape == (3, 256, 256)


def test_the_stored_square_is_torchvisions_resize_and_center_crop(tmp_path):
    sizes = [(80, 60), (60, 81), (33, 200), (48, 48), (47, 31), (301, 97)]
    for seed, (width, height) in enumerate(sizes):
        picture = photo(seed, width, height)
        shorter = min(width, height)
        whole = picture.resize((int(40 * width / shorter), int(40 * height / shorter)), Image.Resampling.BICUBIC)
        expected = np.asarray(center_crop(whole, [40, 40])).astype(int)
        assert np.abs(np.asarray(crop_square(picture, 40)).astype(int) - expected).max() <= 1


def test_decoding_at_a_fraction_changes_next_to_nothing():
    whole = encoded(photo(5, 1200, 900))
    exact = np.asarray(crop_square(decode(whole)[0], 100)).astype(int)
    drafted, _ = decode(whole, draft_size=100)
    assert drafted.size == (300, 225)
    assert np.abs(np.asarray(crop_square(drafted, 100)).astype(int) - exact).mean() < 1


def test_statistics_are_those_of_numpy_on_the_same_images(tmp_path):
    files = {f"train/a/{number}.png": encoded(photo(number, 48, 48), "PNG") for number in range(20)}
    output = pack_here(write_files(tmp_path / "source", files), tmp_path / "set")
    statistics = read_statistics(output)
    pixels = np.stack([np.asarray(photo(number, 48, 48)) for number in range(20)]).astype(np.float64)
    assert statistics.images == 20
    np.testing.assert_allclose(statistics.mean_image, pixels.mean(0).transpose(2, 0, 1), rtol=1e-6)
    covariance = np.cov(pixels.reshape(-1, 3), rowvar=False, bias=True)
    vectors, deviations = statistics.eigenvectors, statistics.deviations
    np.testing.assert_allclose(vectors @ np.diag(deviations**2) @ vectors.T, covariance, rtol=1e-9)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    assert deviations[0] > deviations[1] > deviations[2]
    manifest = json.loads((output / "manifest.json").read_text())
    np.testing.assert_allclose(manifest["channel_means"], pixels.mean((0, 1, 2)), rtol=1e-12)


def test_a_thousand_mutated_jpegs_are_decoded_or_named():
    rng = np.random.default_rng(6)
    originals = [
        encoded(photo(7)),
        encoded(photo(8), progressive=True),
        encoded(photo(9).convert("CMYK")),
        encoded(photo(10), exif=Image.Exif(), subsampling=2),
    ]
    decoded, reasons = 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(1000):
            data = bytearray(originals[number % len(originals)])
            for position in rng.integers(0, len(data), rng.integers(1, 8)):
                data[position] = rng.integers(256)
            if number % 10 == 0:
                del data[rng.integers(len(data)) :]
            try:
                image, _ = decode(bytes(data), draft_size=16)
            except UnusableImageError as reason:
                reasons.append(str(reason))
            else:
                assert (image.mode, crop_square(image, 16).size) == ("RGB", (16, 16))
                decoded += 1
    assert all(reason and "\n" not in reason for reason in reasons)
    assert decoded > 100
    assert len(reasons) > 100


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
