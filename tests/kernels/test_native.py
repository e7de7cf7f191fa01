"""C++ files as libraries: compiled once, made again where they are damaged, and what is said where they cannot be had."""

import subprocess
from pathlib import Path

import pytest

from alexnet_dist.kernels import native
from alexnet_dist.kernels.native import CompilerError, Toolchain, load_library
from alexnet_dist.launching.toolchain import find_toolchain

ANSWER = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.cpp"
    path.write_text(ANSWER)
    return path


def _refuse_words(word: str) -> None:
    raise AssertionError(word)


def test_a_library_is_compiled_once(source: Path, tmp_path: Path) -> None:
    toolchain = Toolchain((("c++",),), tmp_path / "new" / "cache")
    assert load_library(source, toolchain, _refuse_words).answer() == 42
    (library,) = (tmp_path / "new" / "cache").glob("*.so")
    made = library.stat().st_mtime_ns
    assert load_library(source, toolchain, _refuse_words).answer() == 42
    assert library.stat().st_mtime_ns == made


@pytest.mark.parametrize("size", [0, 3000])
def test_a_library_that_was_cut_short_is_made_again(source: Path, tmp_path: Path, size: int) -> None:
    toolchain = Toolchain((("c++",),), tmp_path / "cache")
    name = native._made(source, ["c++"], tmp_path / "cache" / "whole.so").name  # the same library, which nobody has loaded yet
    whole = (tmp_path / "cache" / name).read_bytes()
    load_library(source, toolchain, _refuse_words)
    (library,) = set((tmp_path / "cache").glob("answer-*.so"))
    library.unlink()  # not written over: this process has it loaded
    library.write_bytes(whole[:size])
    assert load_library(source, toolchain, _refuse_words).answer() == 42
    assert library.stat().st_size == len(whole)


def test_where_the_cache_cannot_be_written_the_temporary_folder_serves(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (tmp_path / "file").write_text("")
    words: list[str] = []
    toolchain = Toolchain((("c++",),), tmp_path / "file" / "cache")
    assert load_library(source, toolchain, words.append).answer() == 42
    assert "cannot be used (Not a directory)" in words[0]
    assert str(temporary) in words[0]
    (folder,) = temporary.iterdir()
    folder.chmod(0o777)
    with pytest.raises(CompilerError, match="another user may write to it"):
        load_library(source, toolchain, words.append)


def test_the_toolchain_is_the_environment_s() -> None:
    assert find_toolchain({"CXX": "clang", "XDG_CACHE_HOME": "/x"}) == Toolchain((("clang",),), Path("/x/alexnet_dist"))
    assert find_toolchain({"CXX": "ccache g++", "XDG_CACHE_HOME": "/x"}).compilers == (("ccache", "g++"),)
    assert find_toolchain({}) == Toolchain((("c++",), ("g++",), ("clang++",)), Path.home() / ".cache" / "alexnet_dist")


def test_the_absence_of_a_compiler_and_its_failure_are_explained(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CompilerError, match=r"there is no C\+\+ compiler \(no-such-compiler\)"):
        load_library(source, Toolchain((("no-such-compiler",),), tmp_path), _refuse_words)
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'x.cpp:1: error: nonsense' >&2; exit 1; }\n")
    failing.chmod(0o755)
    assert subprocess.run([failing, "--version"], check=True)
    with pytest.raises(CompilerError, match=r"failing fails: x\.cpp:1: error: nonsense"):
        load_library(source, Toolchain(((str(failing),),), tmp_path / "cache"), _refuse_words)
    assert list((tmp_path / "cache").iterdir()) == []
