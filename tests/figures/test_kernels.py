"""How coloured kernels are, as a number, and which filters are shown."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_dist.figures.kernels import colour_shares, draw_kernels, mosaic, strongest_filters


def test_grey_kernels_have_no_colour_and_opposed_ones_nothing_else() -> None:
    grey = torch.randn(8, 1, 5, 5).expand(8, 3, 5, 5)
    opposed = torch.randn(8, 1, 5, 5) * torch.tensor([1.0, -2.0, 1.0]).view(1, 3, 1, 1)
    assert colour_shares(torch.cat([grey, opposed]), towers=2) == pytest.approx([0, 1], abs=1e-6)


def test_random_kernels_have_two_thirds() -> None:
    kernels = torch.randn(960, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    assert colour_shares(kernels, towers=2) == pytest.approx([2 / 3, 2 / 3], abs=0.01)


def test_a_kernel_that_weighs_more_counts_more() -> None:
    grey, red = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    red[:, 0] = 3
    # One red weight r has r^2 / 3 along the grey axis and 2 r^2 / 3 beside it; a grey pixel of ones has 3 and 0.
    assert colour_shares(torch.cat([grey, red]), towers=1) == pytest.approx([6 / (3 + 9)])


def test_a_mosaic_shows_each_kernel_in_its_place_at_its_own_scale() -> None:
    kernels = torch.rand(18, 3, 4, 4) * torch.arange(1, 19).view(-1, 1, 1, 1)
    picture = mosaic(kernels)
    assert picture.shape == (2 * 5, 16 * 5, 4)
    last = torch.from_numpy(picture[5:9, 5:9, :3]).permute(2, 0, 1)
    own = kernels[17]
    assert torch.allclose(last, (own - own.min()) / (own.max() - own.min()), atol=1e-6)
    assert picture[:, 4, 3].max() == 0, "a transparent pixel between two"


def test_a_figure_follows_the_page_s_colours(tmp_path: Path) -> None:
    draw_kernels(torch.randn(96, 3, 11, 11), 2, tmp_path / "kernels.svg")
    drawn = (tmp_path / "kernels.svg").read_text()
    assert "tower 0: 6" in drawn
    assert "fill: currentColor" in drawn
    assert "prefers-color-scheme:dark" in drawn
    assert len(drawn) < 100_000


def test_the_strongest_filters_are_shown_by_the_maps_that_they_weigh_most() -> None:
    weights = torch.full((8, 20, 3, 3), 1e-3)
    weights[5, 17] = 2.0
    weights[5, 3] = -1.0
    weights[2, 9] = 0.5
    picture = strongest_filters(weights)
    assert picture.shape == (6 * 4 - 1, 12 * 4 - 1)
    assert (picture[:3, :3] == 1).all(), "filter 5's weights for map 17, scaled to its own largest"
    assert (picture[:3, 4:7] == -0.5).all(), "then those for map 3"
    assert (picture[4:7, :3] == 1).all(), "then filter 2"
    assert np.isnan(picture[3]).all()
    assert np.isnan(picture[:, 3]).all()
