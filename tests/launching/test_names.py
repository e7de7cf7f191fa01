"""The plain form is local: it needs no name that resolves."""

import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = ("tracking=none", "run.report=false", "run.dir=run", "trainer.max_steps=2", "evaluation.views=1", "data.size=64")
WITHOUT_NAMES = 'mount --bind hosts /etc/hosts && hostname no-such-name && exec "$@"'


@pytest.mark.slow
def test_a_machine_without_localhost_whose_own_name_does_not_resolve_trains(few_images: Path, tmp_path: Path) -> None:
    (tmp_path / "hosts").touch()
    train = [sys.executable, "-m", "alexnet_dist.train", *SETTINGS, "trainer.batch_size=32", f"data.root={few_images}"]
    alone = ["unshare", "--uts", "--mount", "bash", "-c", WITHOUT_NAMES, "-"]
    if subprocess.run([*alone, "true"], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces")
    done = subprocess.run([*alone, *train], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "gai error" not in done.stderr
