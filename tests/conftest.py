"""Data that several tests share."""

from pathlib import Path

import pytest

from alexnet_dist.data import quickstart
from tests.reliability.kills import take_few


@pytest.fixture(scope="session")
def drawn_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick start's images, as a data.root."""
    folder = tmp_path_factory.mktemp("images") / "quickstart"
    quickstart.make(folder, lambda done, total: None)
    return folder


@pytest.fixture(scope="session")
def few_images(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of these, 320 for training and 64 for validation, as a data.root."""
    return take_few(drawn_images, tmp_path_factory.mktemp("few") / "images")
