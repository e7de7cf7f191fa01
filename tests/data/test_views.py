import numpy as np
import pytest
import torch

from alexnet_dist.data.feed import Batch
from alexnet_dist.data.sampling import draws
from alexnet_dist.data.statistics import Statistics
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError

SIZE, CROP = 20, 16


@pytest.fixture
def statistics() -> Statistics:
    random = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(random.normal(size=(3, 3)))
    mean = random.uniform(0, 255, (3, SIZE, SIZE)).astype(np.float32)
    return Statistics(mean, vectors, np.array([60.0, 12.0, 4.0]), 9)


def preprocess(statistics: Statistics, colour: bool = True) -> Preprocess:
    made = Preprocess(SIZE, CROP, colour)
    made.set_statistics(statistics)
    return made


@pytest.mark.parametrize("colour", [True, False])
def test_training_images_against_numpy(statistics: Statistics, colour: bool) -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (12, CROP, CROP, 3), dtype=np.uint8)
    drawn = draws(0, 0, np.arange(12), SIZE - CROP + 1, True)
    to = torch.from_numpy
    batch = Batch(
        0, 0, np.arange(12), to(pixels).permute(0, 3, 1, 2), to(np.zeros(12, np.int64)),
        to(drawn.y), to(drawn.x), to(drawn.mirror), to(drawn.colour),
    )  # fmt: skip
    images = preprocess(statistics, colour).of_training(batch)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    for i in range(12):
        mean = statistics.mean_image[:, drawn.y[i] : drawn.y[i] + CROP, drawn.x[i] : drawn.x[i] + CROP]
        expected = pixels[i].transpose(2, 0, 1) - (mean[:, :, ::-1] if drawn.mirror[i] else mean)
        if colour:
            expected = expected + (statistics.eigenvectors @ (drawn.colour[i] * statistics.deviations))[:, None, None]
        np.testing.assert_allclose(images[i].numpy(), expected, atol=1e-4)


def test_ten_views_are_corners_centre_and_mirrors(statistics: Statistics) -> None:
    pixels = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    made = preprocess(statistics)
    whole = pixels.numpy() - statistics.mean_image
    views = [view.numpy() for view in made.views(10)(pixels)]
    assert len(views) == 10
    expected = []
    for y, x in ((2, 2), (0, 0), (0, 4), (4, 0), (4, 4)):
        cut = whole[:, :, y : y + CROP, x : x + CROP]
        expected += [cut, cut[:, :, :, ::-1]]
    np.testing.assert_array_equal(np.stack(views), np.stack(expected))
    (centre,) = made.views(1)(pixels)
    np.testing.assert_array_equal(centre.numpy(), expected[0])


def test_mean_image_of_another_size_is_refused(statistics: Statistics) -> None:
    with pytest.raises(UserError, match=r"20 pixels a side and data\.size is 24"):
        Preprocess(24, 16, True).set_statistics(statistics)
