"""Which DALI is installed, by the metadata that pip leaves."""

import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_dist.dali import dali_package
from alexnet_dist.errors import UserError


def _install(folder: Path, *names: str) -> None:
    for name in names:
        metadata = folder / f"{name.replace('-', '_')}-2.4.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.4.0\n")


def test_a_command_names_two_dalis_in_a_sentence(tmp_path: Path) -> None:
    other = "nvidia-dali-cuda110"
    _install(tmp_path, other)
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from alexnet_dist.table import main; main()"
    words = [sys.executable, "-c", start, "model=tiny"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {other} and nvidia-dali-cuda1")
    assert f"pip uninstall {other} nvidia-dali-cuda1" in line


def test_the_one_that_is_installed_is_named_whatever_its_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="DALI is not installed"):
        dali_package()
    _install(tmp_path, "nvidia-dali-cuda120")
    assert dali_package() == "nvidia-dali-cuda120"
