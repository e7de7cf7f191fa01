"""Errors class by class, beside the errors of all images."""

import numpy as np
import pytest
import torch

from alexnet_dist.results.by_class import errors_by_class
from alexnet_dist.results.predictions import Predictions
from alexnet_dist.results.validation import count_errors


def test_an_output_beyond_the_classes_counts_as_a_wrong_guess_as_it_does_over_all() -> None:
    classes = np.array(["a", "b", "c", "d", "e"])
    chances = torch.rand(40, 6, generator=torch.Generator().manual_seed(1))
    chances[:20, 5] = 1  # the sixth output's guess
    chances[:5, 0] = 0  # behind all others, where its label is 0
    labels = torch.arange(40) % 5
    rows = errors_by_class(Predictions(chances.numpy(), labels.numpy(), np.empty(40, str), classes, classes))
    assert {row.images for row in rows} == {8}
    wrong = count_errors(chances, labels)
    for top, mean in enumerate((np.mean([row.top1_error for row in rows]), np.mean([row.top5_error for row in rows]))):
        assert mean == pytest.approx(float(wrong[2 + top]) / 40)
    assert rows[0].top5_error > 0
    assert {row.confused_with for row in rows} == {"output 5"}
