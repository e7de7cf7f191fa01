"""Data that several tests share."""

from pathlib import Path

import pytest

from alexnet_dist.data import quickstart


@pytest.fixture(scope="session")
def drawn_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick start's images, as a data.root."""
    folder = tmp_path_factory.mktemp("images") / "quickstart"
    quickstart.make(folder, lambda done, total: None)
    return folder
