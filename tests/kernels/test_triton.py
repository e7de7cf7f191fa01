"""The Triton kernels without a GPU: right by the interpreter, and compiled for every kind of GPU without a spill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent


def _run(*words: str, cache: Path, interpret: str = "0") -> None:
    # The options of the run that this is a part of, such as several workers, are not this one's.
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "TRITON_INTERPRET": interpret, "TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=HERE.parents[1],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_the_kernels_compute_what_the_references_do(tmp_path: Path) -> None:
    _run("-m", "pytest", "-q", "-x", str(HERE / "interpreted.py"), cache=tmp_path, interpret="1")


def test_the_kernels_compile_for_every_kind_of_gpu_without_a_spill(tmp_path: Path) -> None:
    _run("-m", "tests.kernels.compiled", cache=tmp_path)
