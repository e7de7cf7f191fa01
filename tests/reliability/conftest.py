"""A run that nothing disturbed, for those that something is done to."""

from pathlib import Path

import pytest

from tests.reliability import kills


@pytest.fixture(scope="session")
def epoch_images(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which ten steps of kills.RUN make an epoch, as a data.root."""
    return kills.take_few(drawn_images, tmp_path_factory.mktemp("epoch") / "images")


@pytest.fixture(scope="session")
def complete(epoch_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes and sixty steps, with a checkpoint every ten; not to be written to."""
    run_dir = kills.undisturbed(epoch_images, 2, tmp_path_factory.mktemp("complete") / "it", kills.SIXTY, "checkpoint.keep=10")
    assert len(list((run_dir / "checkpoints").glob("step-*"))) == 6
    return run_dir
