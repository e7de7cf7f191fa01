import subprocess
import sys

import numpy as np

from alexnet_dist.data.sampling import draws, epoch_order

ORDER = [4, 2, 0, 6, 1, 5, 7, 3]
DRAWN = ([15, 22], [25, 20], [False, True])
COLOUR = [
    [0.08842500299215317, -0.052293673157691956, 0.17962577939033508],
    [-0.06051198020577431, -0.15654435753822327, -0.029145987704396248],
]


def test_order_is_a_permutation_that_seed_and_epoch_change() -> None:
    for count in (1, 2, 3, 1000):
        assert np.sort(epoch_order(3, 5, count)).tolist() == list(range(count))
    orders = {epoch_order(seed, epoch, 1000).tobytes() for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert epoch_order(0, 0, 5).dtype == np.int64


def test_an_order_of_imagenet_has_every_image_once() -> None:
    assert np.array_equal(np.sort(epoch_order(0, 0, 1_281_167)), np.arange(1_281_167))


def test_neighbours_in_an_order_are_not_related() -> None:
    order = epoch_order(0, 0, 100_000)
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.02


def test_draws_do_not_depend_on_the_other_samples() -> None:
    samples = np.arange(500)
    whole = draws(1, 2, samples, 33, True)
    shuffled = np.random.default_rng(0).permutation(samples)
    part = draws(1, 2, shuffled[:100], 33, True)
    for field in ("y", "x", "mirror", "colour"):
        np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[shuffled[:100]])


def test_draws_have_the_distributions_of_the_paper() -> None:
    drawn = draws(0, 0, np.arange(200_000), 33, True)
    for offsets in (drawn.y, drawn.x):
        counts = np.bincount(offsets, minlength=33)
        assert len(counts) == 33
        assert np.abs(counts / (200_000 / 33) - 1).max() < 0.06
    assert abs(drawn.mirror.mean() - 0.5) < 0.005
    np.testing.assert_allclose(drawn.colour.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(drawn.colour.std(0), 0.1, atol=1e-3)
    assert abs((np.abs(drawn.colour) < 0.1).mean() - 0.6827) < 0.005
    together = np.column_stack([drawn.y, drawn.x, drawn.mirror, drawn.colour])
    assert np.abs(np.corrcoef(together.T) - np.eye(6)).max() < 0.01


def test_seed_and_epoch_change_the_draws_and_mirroring_can_be_off() -> None:
    samples = np.arange(100)
    crops = {draws(seed, epoch, samples, 33, True).y.tobytes() for seed in range(3) for epoch in range(3)}
    assert len(crops) == 9
    assert not draws(0, 0, samples, 33, False).mirror.any()
    assert draws(0, 0, samples, 1, True).y.max() == 0


def test_plan_is_the_same_in_another_process_and_forever() -> None:
    """Whoever changes these numbers makes every checkpoint go on with other data."""
    assert epoch_order(1, 2, 8).tolist() == ORDER
    drawn = draws(1, 2, np.array([0, 1_281_166]), 33, True)
    assert (drawn.y.tolist(), drawn.x.tolist(), drawn.mirror.tolist()) == DRAWN
    np.testing.assert_allclose(drawn.colour, COLOUR, rtol=1e-6)
    code = "from alexnet_dist.data.sampling import epoch_order; print(epoch_order(1, 2, 8).tolist())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == f"{ORDER}\n"
