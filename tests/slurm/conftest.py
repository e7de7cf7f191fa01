"""The tests' own SLURM."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import CannotStart, Cluster, running_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    try:
        with running_cluster(folder) as started:
            yield started
    except CannotStart as reason:
        pytest.skip(str(reason))
    finally:
        shutil.rmtree(folder)
