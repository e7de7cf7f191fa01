"""A net that does not learn is said to be so, in a line; one that does is left in peace."""

from math import log
from pathlib import Path

import pytest

from alexnet_dist.training.first_steps import signs_of_not_learning
from tests.commands import train

ALIVE = {"conv1": {"dead": [0.0, 0.1]}, "fc6": {"dead": [0.5, 0.4]}}


@pytest.mark.parametrize("loss", [log(100), log(100) - 0.01, 7.0, float("nan")])
def test_a_loss_that_is_that_of_guessing(loss: float) -> None:
    (sign,) = signs_of_not_learning(loss, 100, ALIVE)
    assert "no better than that of guessing among 100 classes (4.605)" in sign
    assert "weight_std: he" in sign


def test_units_that_are_dead() -> None:
    (sign,) = signs_of_not_learning(2.0, 100, ALIVE | {"conv5": {"dead": [0.2, 0.953]}})
    assert "at step 200 95% of the units of conv5 are 0 for all images" in sign


def test_a_net_that_learns_is_left_in_peace() -> None:
    assert signs_of_not_learning(log(100) - 0.1, 100, ALIVE) == []


@pytest.mark.slow
def test_the_run_says_it_once(few_images: Path, tmp_path: Path) -> None:
    words = [f"model.layers.{name}.weight_std=1e-5" for name in ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")]
    words += [f"model.layers.conv{number}.filters=8" for number in range(1, 6)]
    words += ["model.layers.fc6.filters=16", "model.layers.fc7.filters=16"]
    more = ("trainer.max_steps=201", "trainer.batch_size=16", "trainer.epochs=99", "run.dir=run")
    seldom = ("trainer.validate_every=99", "evaluation.views=1")
    done = train(*words, *more, *seldom, f"data.root={few_images}", cwd=tmp_path)
    assert done.stdout.count("is no better than that of guessing among 8 classes (2.079)") == 1
