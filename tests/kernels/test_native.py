"""C++ files as libraries: compiled once, and what is said where they cannot be."""

import subprocess
from pathlib import Path

import pytest

from alexnet_dist.kernels import native

SOURCE = Path(native.__file__).parent / "model" / "tail.cpp"


def test_the_library_is_compiled_once_and_its_absence_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.load_library(SOURCE)
    (library,) = (tmp_path / "alexnet_dist").iterdir()
    made = library.stat().st_mtime_ns
    native.load_library(SOURCE)
    assert library.stat().st_mtime_ns == made
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(native.CompilerError, match=r"there is no C\+\+ compiler \(no-such-compiler\)"):
        native.load_library(SOURCE)
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'x.cpp:1: error: nonsense' >&2; exit 1; }\n")
    failing.chmod(0o755)
    assert subprocess.run([failing, "--version"], check=True)
    monkeypatch.setenv("CXX", str(failing))
    with pytest.raises(native.CompilerError, match=r"failing fails: x\.cpp:1: error: nonsense"):
        native.load_library(SOURCE)
    assert list((tmp_path / "alexnet_dist").iterdir()) == [library]
