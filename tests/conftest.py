"""Data that several tests share."""

import multiprocessing
from pathlib import Path

import pytest

from alexnet_dist.data import quickstart
from tests.commands import train
from tests.reliability.kills import take_few

# Processes that tests fork come from one that has imported already: to import takes longer than most of them live.
multiprocessing.set_forkserver_preload(["alexnet_dist.train", "torch.distributed.checkpoint"])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With pytest-xdist the tests of a file stay together, since they share its fixtures, or those of a group that files name.

    Groups with slow tests come first, so that no worker is left with a long one at the end.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        named = item.get_closest_marker("xdist_group")
        group = named.args[0] if named else item.nodeid.split("::")[0]
        groups.setdefault(group, []).append(item)
        if not named:
            item.add_marker(pytest.mark.xdist_group(group))
    by_slowness = sorted(groups.values(), key=lambda group: not any(item.get_closest_marker("slow") for item in group))
    items[:] = [item for group in by_slowness for item in group]


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


@pytest.fixture(scope="session")
def two_runs(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two short runs on the quick start's images: of the tiny net, and of another seed without response norms."""
    folder = tmp_path_factory.mktemp("two_runs")
    words = (f"data.root={drawn_images}", "trainer.max_steps=8", "trainer.batch_size=32", "evaluation.views=1")
    train(*words, "run.dir=a", "parallel.processes=1", cwd=folder)
    train(*words, "run.dir=b", "parallel.processes=1", "seed=1", "model.operations.lrn.kind=identity", cwd=folder)
    return folder / "a", folder / "b"
