"""Counting: places, ties, padding, and what is no number."""

import math

import torch

from alexnet_dist.results.validation import count_errors


def test_top_1_top_5_and_loss_of_known_probabilities() -> None:
    falling = torch.tensor([0.4, 0.2, 0.15, 0.1, 0.08, 0.07])
    probabilities = falling.repeat(4, 1)
    images, loss, wrong1, wrong5 = count_errors(probabilities, torch.tensor([0, 1, 5, -1])).tolist()
    assert (images, wrong1, wrong5) == (3, 2, 1)
    assert math.isclose(loss, -math.log(0.4) - math.log(0.2) - math.log(0.07), rel_tol=1e-6)


def test_of_equal_classes_the_first_counts_as_better() -> None:
    probabilities = torch.full((6, 6), 1 / 6)
    _, _, wrong1, wrong5 = count_errors(probabilities, torch.arange(6)).tolist()
    assert (wrong1, wrong5) == (5, 1)


def test_no_number_counts_as_wrong() -> None:
    _, _, wrong1, wrong5 = count_errors(torch.full((1, 6), math.nan), torch.tensor([0])).tolist()
    assert (wrong1, wrong5) == (1, 1)
