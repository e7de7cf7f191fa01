"""What is packed of an image, odd files too, beside what torchvision, DALI and NumPy make of it."""

import json
import warnings

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from PIL import Image
from torchvision.transforms.functional import center_crop

from alexnet_dist.data.odd_files import UnusableImageError, crop_square, decode
from alexnet_dist.data.packed import open_packed, read_statistics
from tests.packing.miniature import (
    encoded,
    odd_but_good,
    pack_here,
    photo,
    pixels_of,
    run_prepare,
    stem_of,
    unusable,
    write_files,
)


def test_every_odd_file_is_taken_right_or_named(tmp_path):
    picture = photo(3, 64, 48)
    good, bad = odd_but_good(picture), unusable()
    files = {f"train/odd/{name}.JPEG": data for name, (data, _) in {**good, **bad}.items()}
    files["train/plain/plain.JPEG"] = encoded(picture)
    source = write_files(tmp_path / "source", files)
    common = ("source=imagefolder", f"root={source}", f"output={tmp_path / 'set'}", "size=48", "quality=100")

    answer = run_prepare(*common)
    assert answer.returncode == 2
    assert "4 of 22 files were skipped, more than max_skipped=0.001" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert (tmp_path / "set" / "skipped.tsv").exists()
    answer = run_prepare(*common, "max_skipped=0.5")
    assert answer.returncode == 0, answer.stderr
    assert "18 of 22 files packed, 4 skipped" in answer.stdout

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
    assert kept == {"grey", "progressive", "brokenexif", "xmp"}
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
