import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_dist.data.bad_image import BadImage, BadImageError
from alexnet_dist.data.statistics import Statistics, gather
from tests.data.jpegs import InMemory, encoded, photo

CPU = torch.device("cpu")


def quiet(done: int, total: int) -> None:
    """Nobody is told."""



@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [encoded(photo(seed, 48, 48 + seed % 5)) for seed in range(70)]


def squares(files: list[bytes]) -> np.ndarray:
    """float64 [n, 48, 48, 3]; rows to leave out are as torchvision's CenterCrop has it."""
    images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(np.float64) for file in files]
    return np.stack([image[round((len(image) - 48) / 2) :][:48] for image in images])


def test_statistics_are_those_of_numpy(files: list[bytes]) -> None:
    calls = []
    found = gather(InMemory(files), 48, 2, CPU, None, lambda done, total: calls.append((done, total)))
    pixels = squares(files)
    np.testing.assert_allclose(found.mean_image, pixels.mean(0).transpose(2, 0, 1), rtol=1e-6)
    covariance = np.cov(pixels.reshape(-1, 3).T, bias=True)
    np.testing.assert_allclose(
        found.eigenvectors * found.deviations**2 @ found.eigenvectors.T, covariance, rtol=1e-9, atol=1e-9 * covariance.max()
    )
    np.testing.assert_allclose(found.eigenvectors.T @ found.eigenvectors, np.eye(3), atol=1e-12)
    assert found.deviations[0] > found.deviations[1] > found.deviations[2]
    assert (found.eigenvectors[np.abs(found.eigenvectors).argmax(0), range(3)] > 0).all()
    assert (found.images, found.mean_image.dtype) == (70, np.float32)
    assert calls == [(32, 70), (64, 70), (70, 70)]


def test_limit_takes_the_same_images_each_time(files: list[bytes]) -> None:
    one, other = (gather(InMemory(files), 48, threads, CPU, 10, quiet) for threads in (1, 3))
    assert one.images == 10
    np.testing.assert_array_equal(one.mean_image, other.mean_image)
    np.testing.assert_array_equal(one.eigenvectors, other.eigenvectors)
    assert gather(InMemory(files[:5]), 48, 1, CPU, 10, quiet).images == 5


def test_bad_images_are_left_out_until_none_is_left(files: list[bytes]) -> None:
    found: list[BadImage] = []
    assert gather(InMemory([b"no", *files[:3], b""]), 48, 1, CPU, None, quiet, found.append).images == 3
    assert sorted(bad.sample for bad in found) == [0, 4]
    with pytest.raises(BadImageError, match=r"^all 2 training images that were to .* are bad: .* cannot be decoded"):
        gather(InMemory([b"no", b""]), 48, 1, CPU, None, quiet, found.append)


def test_grey_images_have_one_component() -> None:
    grey = [encoded(photo(seed, 48, 48).convert("L")) for seed in range(3)]
    found = gather(InMemory(grey), 48, 1, CPU, None, quiet)
    np.testing.assert_allclose(np.abs(found.eigenvectors[:, 0]), 3**-0.5, atol=1e-6)
    np.testing.assert_allclose(found.deviations[1:], 0, atol=1e-3)


def test_saved_and_loaded(files: list[bytes], tmp_path: Path) -> None:
    found = gather(InMemory(files), 48, 1, CPU, 4, quiet)
    found.save(tmp_path / "statistics.npz")
    loaded = Statistics.load(tmp_path / "statistics.npz")
    for field in ("mean_image", "eigenvectors", "deviations", "images"):
        np.testing.assert_array_equal(getattr(loaded, field), getattr(found, field))
        assert np.asarray(getattr(loaded, field)).dtype == np.asarray(getattr(found, field)).dtype
