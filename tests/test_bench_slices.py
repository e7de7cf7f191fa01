"""The bench of slices on a small net, as two replicas."""

import json
from pathlib import Path

import pytest

from tests.forked import ranks, run_forked

WORDS = ("model=tiny", "model.towers=1", "batch_size=16", "rounds=2", "steps=1", "device=cpu")


def test_it_measures_slices_beside_data_parallelism(tmp_path: Path) -> None:
    words = (*WORDS, "slices=[2,4]", "output=figures.json")
    done = run_forked("bench", "slices", *words, cwd=tmp_path, environments=ranks(2))
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["images_per_second"]) == ["slices: 2", "slices: 4", "DistributedDataParallel"]
    assert all(len(rates) == 2 and min(rates) > 0 for rates in figures["images_per_second"].values())


@pytest.mark.parametrize("outside", [True, False])
def test_slices_that_the_replicas_do_not_divide_are_a_sentence(outside: bool, tmp_path: Path) -> None:
    words = (*WORDS, "slices=[1]", "parallel.processes=2")
    done = run_forked("bench", "slices", *words, cwd=tmp_path, environments=ranks(2) if outside else ({},))
    assert done.returncode == 2
    assert "error: slices=1 of batch_size=16 cannot be shared by 2 replicas" in done.stderr
