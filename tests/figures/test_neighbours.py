"""Exact search, one batch at a time."""

import torch

from alexnet_dist.figures.neighbours import nearest


def test_batch_by_batch_it_finds_what_a_search_over_all_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(5, 64, generator=generator), torch.randn(1000, 64, generator=generator)
    rows[777] = queries[3]
    distances, numbers = nearest(queries, rows.split(96), count=6)
    expected = (queries[:, None] - rows[None]).norm(dim=2).topk(6, dim=1, largest=False)
    assert torch.equal(numbers, expected.indices)
    assert torch.allclose(distances, expected.values)
    assert (numbers[3, 0], distances[3, 0]) == (777, 0)


def test_with_fewer_rows_than_wanted_it_finds_them_all() -> None:
    distances, numbers = nearest(torch.zeros(2, 3), iter([torch.ones(1, 3), 2 * torch.ones(3, 3)]), count=6)
    assert numbers.shape == distances.shape == (2, 4)
    assert numbers[:, 0].tolist() == [0, 0]
