"""C++ files of the package as libraries, compiled for this processor by the machine's own compiler, once, and kept."""

import ctypes
import hashlib
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.files import folder_of_this_user, sha256_of

# Nothing is reordered or contracted, so that a result depends on the source alone, and what is no number stays none.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")

# Compilers shy away from the widest registers of these processors, of which long loops make good use.
WIDE = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()


class CompilerError(Exception):
    """The library cannot be had here; the message says why."""


@dataclass(frozen=True)
class Toolchain:
    """The compilers, each as the words of a command, of which the first that is there is taken; and the folder that keeps what
    they make, where it can be written: else one in the temporary folder serves."""

    compilers: tuple[tuple[str, ...], ...]
    cache: Path


def load_library(source: Path, toolchain: Toolchain, warn: Callable[[str], None]) -> ctypes.CDLL:
    """The library of a C++ file: from the cache folder, or compiled into it in some seconds. Processes may do it at a time.

    A library serves the source, flags, compiler and processor that it was made for. Its SHA-256 sum lies beside it: one that was
    cut short or changed is made again.

    Raises:
        CompilerError: there is no compiler, it fails, or no folder can be written.
    """
    compiler = next((words for words in toolchain.compilers if shutil.which(words[0])), None)
    if compiler is None:
        raise CompilerError(f"there is no C++ compiler ({', '.join(map(shlex.join, toolchain.compilers))})")
    made_for = "\n".join((source.read_text("utf-8"), *FLAGS, *WIDE, _run([*compiler, "--version"]), _processor()))
    name = f"{source.stem}-{hashlib.sha256(made_for.encode()).hexdigest()[:16]}.so"
    try:
        try:
            return ctypes.CDLL(str(_made(source, compiler, toolchain.cache / name)))
        except OSError as error:
            why = f"{toolchain.cache} cannot be used ({error.strerror or error})"
        folder = folder_of_this_user()
        warn(f"warning: {why}: what is compiled is kept in {folder}")
        return ctypes.CDLL(str(_made(source, compiler, folder / name)))
    except OSError as error:
        raise CompilerError(f"{error.strerror or error}: {error.filename or name}") from None


def _made(source: Path, compiler: Sequence[str], library: Path) -> Path:
    """The library, there and whole. Raises OSError where its folder cannot be written."""
    noted = library.with_suffix(".so.sha256")
    if not (library.exists() and noted.exists() and noted.read_text("ascii", "replace") == sha256_of(library)):
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            _run([*compiler, *FLAGS, *WIDE, "-o", str(made), str(source)])
            (sum_of_made := made.with_suffix(".sha256")).write_text(sha256_of(made))
            made.replace(library)
            sum_of_made.replace(noted)
    return library


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
