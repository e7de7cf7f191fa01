"""Caffe's layout of layers that are not like AlexNet's."""

import pytest
import torch

from alexnet_dist.errors import UserError
from alexnet_dist.formats.layouts import _reversed, to_caffe
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.table import build_table


def test_a_full_connection_to_the_image_has_its_colours_turned_and_not_its_pixels() -> None:
    assert _reversed(torch.arange(12).reshape(1, 12)).tolist() == [[8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3]]


def test_a_full_connection_to_the_own_tower_is_refused() -> None:
    table = build_table(compose("train", ["model=small/towers_apart"])["model"])
    with pytest.raises(UserError, match="layer fc6 is fully connected to its own tower, which Caffe cannot"):
        to_caffe({}, table)
