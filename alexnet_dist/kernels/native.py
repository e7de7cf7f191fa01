"""C++ files of the package as libraries, compiled for this processor by the machine's own compiler, once, and kept."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

# Nothing is reordered or contracted, so that a result depends on the source alone, and what is no number stays none.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")

# Compilers shy away from the widest registers of these processors, of which long loops make good use.
WIDE = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()


class CompilerError(Exception):
    """The library cannot be had here; the message says why."""


def load_library(source: Path) -> ctypes.CDLL:
    """The library of a C++ file: from the cache folder, or compiled into it in some seconds. Processes may do it at a time.

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
    made_for = "\n".join((source.read_text(), *FLAGS, *WIDE, _version(compiler), _processor()))
    library = cache / f"{source.stem}-{hashlib.sha256(made_for.encode()).hexdigest()[:16]}.so"
    try:
        if not library.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                made = Path(folder) / library.name
                _run([compiler, *FLAGS, *WIDE, "-o", str(made), str(source)])
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
