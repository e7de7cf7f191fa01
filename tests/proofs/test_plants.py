"""The faults that tests/proofs/plants.py plants have the places where they are planted."""

import pytest

from tests.proofs.plants import PLANTS, ROOT, Plant


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.fault)
def test_a_plant_s_place_is_there_once(plant: Plant) -> None:
    assert (ROOT / plant.file).read_text().count(plant.right) == 1
