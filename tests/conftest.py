"""Data that several tests share."""

import fcntl
import gc
import multiprocessing
import os
from pathlib import Path

import pytest

from alexnet_dist.data import quickstart
from tests.commands import train
from tests.reliability.kills import take_few

# Processes that tests fork come from one that has imported already, and more: both take longer than most of them live.
multiprocessing.set_forkserver_preload(["tests.preload"])


gc.disable()  # until all is imported


def pytest_collection_finish() -> None:
    """Python looks no more through what has been imported whenever it looks for garbage."""
    gc.enable()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, then those of whole commands: of several workers none is left with a long file at the
    end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent != Path(__file__).parent))


@pytest.fixture(scope="session")
def drawn_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick start's images, as a data.root in which nothing is written. Several workers of pytest draw them once."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / "quickstart"
    with (shared / "quickstart.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        quickstart.make(folder, lambda done, total: None)
    return folder


@pytest.fixture(scope="session")
def few_images(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of these, 320 for training and 64 for validation, as a data.root."""
    return take_few(drawn_images, tmp_path_factory.mktemp("few") / "images", 320, 64)


@pytest.fixture(scope="session")
def two_runs(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two short runs on a few of these images: of the tiny net, and of another seed without response norms."""
    folder = tmp_path_factory.mktemp("two_runs")
    words = (f"data.root={few_images}", "trainer.max_steps=8", "trainer.batch_size=32", "evaluation.views=1")
    train(*words, "run.dir=a", "parallel.processes=1", cwd=folder)
    train(*words, "run.dir=b", "parallel.processes=1", "seed=1", "model.operations.lrn.kind=identity", cwd=folder)
    return folder / "a", folder / "b"
