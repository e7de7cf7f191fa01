import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from alexnet_dist.data.bad_image import BadImageError
from alexnet_dist.data.decode import Crops, decode
from alexnet_dist.data.images import Images, open_folder
from alexnet_dist.data.odd_files import MAX_SIDE
from alexnet_dist.data.sampling import draws
from alexnet_dist.errors import UserError
from tests.data.jpegs import InMemory, encoded, make_folder, photo

CPU = torch.device("cpu")
SHARED = Path(__file__).parents[3] / "shared" / "data" / "imagenet-300-samples.tar"


def decoded(images: Images, crops: Crops, size: int, crop: int, threads: int = 2) -> np.ndarray:
    """uint8 [b, crop, crop, 3], in two batches."""
    half = max(1, len(crops.samples) // 2)
    parts = [slice(0, half), slice(half, None)] if len(crops.samples) > 1 else [slice(0, 1)]
    requests = ((Crops(crops.samples[p], crops.offsets[p]), None) for p in parts)
    batch_size = len(crops.samples) - half or 1
    batches = decode(images, requests, size=size, crop=crop, batch_size=batch_size, threads=threads, device=CPU)
    return np.concatenate([pixels.numpy() for pixels, _ in batches])


def drawn_crops(count: int, positions: int) -> Crops:
    samples = np.arange(count)
    drawn = draws(0, 0, samples, positions, True)
    return Crops(samples, np.stack([drawn.y, drawn.x], axis=1))


def reference(image: Image.Image, size: int, crop: int, y: int, x: int) -> np.ndarray:
    """The same by torchvision: uint8 [crop, crop, 3]."""
    square = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])(ImageOps.exif_transpose(image).convert("RGB"))
    return np.asarray(square)[y : y + crop, x : x + crop]


def assert_like_reference(files: list[bytes], size: int, crop: int) -> None:
    crops = drawn_crops(len(files), size - crop + 1)
    pixels = decoded(InMemory(files), crops, size, crop)
    for i, file in enumerate(files):
        expected = reference(Image.open(io.BytesIO(file)), size, crop, *crops.offsets[i])
        assert np.abs(pixels[i].astype(int) - expected).mean() < 0.5, i


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (375, 500), (257, 256), (256, 300), (100, 61), (64, 64), (1200, 40), (1023, 777)]
)
def test_crops_are_those_of_torchvision(width: int, height: int) -> None:
    files = [encoded(photo(seed, width, height), quality=95) for seed in range(5)]
    assert_like_reference(files, 128, 112)


def test_photographs_are_cropped_as_torchvision_crops_them(tmp_path: Path) -> None:
    if not SHARED.exists():
        pytest.skip("needs the 300 photographs of shared/data")
    with tarfile.open(SHARED) as tar:
        files = [tar.extractfile(member).read() for member in tar.getmembers()[:40]]  # type: ignore[union-attr]
    assert_like_reference(files, 256, 224)


@pytest.mark.parametrize(("width", "height"), [(96, 96), (96, 131), (150, 96)])
def test_image_of_the_right_size_is_not_resampled(width: int, height: int) -> None:
    files = [encoded(photo(seed, width, height)) for seed in range(12)]
    crops = drawn_crops(len(files), 17)
    pixels = decoded(InMemory(files), crops, 96, 80)
    for i, file in enumerate(files):
        expected = reference(Image.open(io.BytesIO(file)), 96, 80, *crops.offsets[i])
        np.testing.assert_array_equal(pixels[i], expected)


def test_a_batch_may_hold_images_that_are_scaled_and_some_that_are_not() -> None:
    sides = [(96, 96), (200, 150), (96, 131), (60, 70), (150, 96)]
    assert_like_reference([encoded(photo(seed, *side), quality=95) for seed, side in enumerate(sides * 2)], 96, 80)


@pytest.mark.parametrize("size", [96, 64])
def test_squares_of_a_known_side_have_the_pixels_of_others(size: int) -> None:
    files = [encoded(photo(seed, 96, 96)) for seed in range(6)]
    crops = drawn_crops(len(files), size - 56 + 1)
    known, looked_at = (decoded(InMemory(files, side=side), crops, size, 56) for side in (96, None))
    np.testing.assert_array_equal(known, looked_at)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_decoding_only_the_crop_gives_the_pixels_of_the_whole(subsampling: str) -> None:
    files = [encoded(photo(seed, 333, 250), subsampling=subsampling) for seed in range(16)]
    crops = drawn_crops(len(files), 33)
    pixels = decoded(InMemory(files), crops, 160, 128)
    whole = decoded(InMemory(files), Crops.whole(crops.samples), 160, 160)
    for i in range(len(files)):
        y, x = crops.offsets[i]
        expected = whole[i, y : y + 128, x : x + 128]
        assert np.abs(pixels[i].astype(int) - expected).max() <= 1


def test_an_enormous_image_is_named_and_not_decoded() -> None:
    files = [encoded(photo(1, 60, 60)), encoded(Image.new("L", (MAX_SIDE + 1, 40)))]
    with pytest.raises(BadImageError, match=r"image-1 cannot be decoded \(enormous: 32769 x 40 pixels"):
        decoded(InMemory(files), drawn_crops(2, 8), 48, 41)


def test_files_that_are_not_plain_jpegs() -> None:
    image = photo(3, 300, 200)
    files = [
        encoded(image.convert("CMYK")),
        encoded(image.convert("L")),
        encoded(image, progressive=True),
        encoded(image, "PNG"),
        encoded(image.convert("L"), "PNG"),
        encoded(image, exif=b"Exif\0\0" + b"\xff" * 40),
    ]
    assert_like_reference(files, 100, 90)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_like_reference([encoded(photo(seed, 300, 200), exif=exif, quality=95) for seed in range(4)], 100, 90)


def test_pixels_do_not_depend_on_threads_or_batch(tmp_path: Path) -> None:
    train, _ = open_folder(make_folder(tmp_path, {"train": (9, 9)}))
    crops = drawn_crops(len(train), 9)
    once = decoded(train, crops, 64, 56, threads=1)
    np.testing.assert_array_equal(once, decoded(train, crops, 64, 56, threads=8))
    for i in range(len(train)):
        alone = Crops(crops.samples[i : i + 1], crops.offsets[i : i + 1])
        np.testing.assert_array_equal(once[i : i + 1], decoded(train, alone, 64, 56))


GOOD = encoded(photo(0, 120, 100))


@pytest.mark.parametrize(
    "bad",
    [GOOD[: len(GOOD) // 3], GOOD[:60], b"not an image at all", b"x", encoded(photo(0, 20, 20), "PNG")[:200]],
    ids=["truncated", "header", "text", "byte", "png"],
)
def test_file_that_cannot_be_decoded_is_named(bad: bytes) -> None:
    images = InMemory([GOOD] * 5 + [bad] + [GOOD] * 4)
    with pytest.raises(UserError, match=r"^image-5 cannot be decoded") as raised:
        decoded(images, Crops.whole(np.arange(10)), 64, 64)
    assert "\n" not in str(raised.value)
