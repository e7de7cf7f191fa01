import numpy as np
import pytest
import torch

from alexnet_dist.data.batch import Batch, pack
from alexnet_dist.data.sampling import draws
from alexnet_dist.data.statistics import Statistics
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.kernels import preprocess as kernels

SIZE, CROP = 20, 16


@pytest.fixture
def statistics() -> Statistics:
    random = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(random.normal(size=(3, 3)))
    mean = random.uniform(0, 255, (3, SIZE, SIZE)).astype(np.float32)
    return Statistics(mean, vectors, np.array([60.0, 12.0, 4.0]), 9)


def preprocess(statistics: Statistics, mean: str = "aligned", colour_divisor: float = 1.0) -> Preprocess:
    made = Preprocess(SIZE, CROP, mean, colour_divisor)
    made.set_statistics(statistics)
    return made


def drawn_batch() -> Batch:
    drawn = draws(0, 0, np.arange(12), SIZE - CROP + 1, True)
    pixels = np.random.default_rng(1).integers(0, 256, (12, CROP, CROP, 3), dtype=np.uint8)
    packed = pack(np.zeros(12, np.int64), drawn.y, drawn.x, drawn.colour, drawn.mirror, device=torch.device("cpu"))
    return Batch.of(0, 0, np.arange(12), torch.from_numpy(pixels).permute(0, 3, 1, 2), packed)


@pytest.mark.parametrize("colour", [True, False])
def test_training_images_against_numpy(statistics: Statistics, colour: bool) -> None:
    batch = drawn_batch()
    images = preprocess(statistics).of_training(batch, colour)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    for i in range(12):
        y, x = int(batch.y[i]), int(batch.x[i])
        expected = batch.pixels[i].numpy() - statistics.mean_image[:, y : y + CROP, x : x + CROP]
        expected = expected[:, :, ::-1] if batch.mirror[i] else expected
        if colour:
            expected = expected + (statistics.eigenvectors @ (batch.colour[i].numpy() * statistics.deviations))[:, None, None]
        np.testing.assert_allclose(images[i].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("colour", [True, False])
def test_training_images_as_in_the_authors_program(statistics: Statistics, colour: bool) -> None:
    batch = drawn_batch()
    images = preprocess(statistics, "centre", colour_divisor=1.1).of_training(batch, colour)
    # convdata_jpeg.py: data_mean_crop is the centre of data_mean, and stays as it is where a chunk is flipped; with noise the
    # sum is divided by 1.0 + color_noise_coeff, without it by nothing.
    border = (SIZE - CROP) // 2
    data_mean_crop = statistics.mean_image[:, border : border + CROP, border : border + CROP]
    flipped = torch.where(batch.mirror[:, None, None, None], batch.pixels.flip(3), batch.pixels)
    cropped = flipped.numpy() - data_mean_crop
    if colour:
        noise = (batch.colour.numpy() * statistics.deviations) @ statistics.eigenvectors.T
        cropped = (cropped + noise[:, :, None, None]) / (1.0 + 0.1)
    np.testing.assert_allclose(images.numpy(), cropped, atol=1e-4)


@pytest.mark.parametrize("mean", ["aligned", "centre"])
def test_ten_views_are_corners_centre_and_mirrors(statistics: Statistics, mean: str) -> None:
    pixels = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    made = preprocess(statistics, mean, colour_divisor=1.1)
    views = [view.numpy() for view in made.views(10)(pixels)]
    assert len(views) == 10
    expected = []
    for y, x in ((2, 2), (0, 0), (0, 4), (4, 0), (4, 4)):
        crop = pixels.numpy()[:, :, y : y + CROP, x : x + CROP]
        if mean == "aligned":
            view = crop - statistics.mean_image[:, y : y + CROP, x : x + CROP]
            expected += [view, view[:, :, :, ::-1]]
        else:  # of every view the mean image's centre, unmirrored
            centre = statistics.mean_image[:, 2 : 2 + CROP, 2 : 2 + CROP]
            expected += [crop - centre, crop[:, :, :, ::-1] - centre]
    np.testing.assert_array_equal(np.stack(views), np.stack(expected))
    (centre,) = made.views(1)(pixels)
    np.testing.assert_array_equal(centre.numpy(), expected[0])


def test_mean_image_of_another_size_is_refused(statistics: Statistics) -> None:
    with pytest.raises(UserError, match=r"20 pixels a side and data\.size is 24"):
        Preprocess(24, 16, "aligned").set_statistics(statistics)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("colour", "divisor"), [(True, 1.0), (True, 1.1), (False, 1.0)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_image_by_image_it_has_the_bits_of_the_whole_batch(
    statistics: Statistics, dtype: torch.dtype, colour: bool, divisor: float, layout: torch.memory_format
) -> None:
    batch, made = drawn_batch(), preprocess(statistics)
    mean_mirror = batch.mirror.flip(0)  # whether or not its image is mirrored
    pixels = batch.pixels.contiguous(memory_format=layout)
    drawn = (batch.y, batch.x, mean_mirror, batch.colour if colour else None, made.eigenvectors, made.deviations, divisor, dtype)
    by_image = kernels.preprocess(pixels, batch.mirror, made.mean_image, *drawn)
    assert by_image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(by_image, kernels.preprocess_by_torch(pixels, batch.mirror, made.mean_image, *drawn))
