"""Weights of several nets: where the best are known beforehand."""

import numpy as np
import pytest

from alexnet_dist.results.ensemble import find_weights


def test_a_net_that_is_better_on_every_image_has_all_the_weight() -> None:
    better = np.random.default_rng(0).uniform(0.5, 1, 50)
    assert find_weights(np.stack([better, better / 3, better / 2], axis=1)) == pytest.approx([1, 0, 0], abs=1e-6)


def test_nets_that_are_right_about_different_images_share_as_the_images_do() -> None:
    chances = np.zeros((40, 2))
    chances[:30, 0], chances[30:, 1] = 0.9, 0.2
    assert find_weights(chances) == pytest.approx([0.75, 0.25], abs=1e-6)
