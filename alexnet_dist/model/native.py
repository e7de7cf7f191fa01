"""tail.cpp as a shared library: compiled for this processor by the machine's own C++ compiler, once, and kept for later runs."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("tail.cpp")

# No reordering of sums, so that a result depends on the source alone; what is not a number stays none.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")


class CompilerError(Exception):
    """The library cannot be had here; the message says why."""


def load_library() -> ctypes.CDLL:
    """The library, from the cache folder or compiled into it (some seconds). Processes may do this at the same time.

    The folder is alexnet_dist/ under XDG_CACHE_HOME, or ~/.cache. CXX names the compiler, else c++, g++ or clang++ is taken. A
    library serves the source, flags, compiler and processor that it was made for.

    Raises:
        CompilerError: there is no compiler, it fails, or the folder cannot be written.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise CompilerError(f"there is no C++ compiler ({', '.join(names)})")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_dist"
    made_for = "\n".join((SOURCE.read_text(), *FLAGS, _version(compiler), _processor()))
    library = cache / f"tail-{hashlib.sha256(made_for.encode()).hexdigest()[:16]}.so"
    try:
        if not library.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                made = Path(folder) / library.name
                _run([compiler, *FLAGS, "-o", str(made), str(SOURCE)])
                made.replace(library)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise CompilerError(f"{error.strerror or error}: {error.filename or library}") from None


def _version(compiler: str) -> str:
    return _run([compiler, "--version"])


def _processor() -> str:
    """What -march=native looks at: a cache folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "flags", "CPU part", "Features")
    return "\n".join([platform.machine(), *dict.fromkeys(line for line in lines if line.startswith(kinds))])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip().partition("\n")[0])
        raise CompilerError(f"{command[0]} fails: {first}")
    return done.stdout
