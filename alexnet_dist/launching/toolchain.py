"""Where the native code's compiler and cache are, as the environment has it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from alexnet_dist.kernels.native import Toolchain


def find_toolchain(environment: Mapping[str, str] = os.environ) -> Toolchain:
    """CXX names the compiler, else c++, g++ or clang++ is taken; the cache is alexnet_dist/ under XDG_CACHE_HOME, or ~/.cache."""
    compilers = (environment["CXX"],) if environment.get("CXX") else ("c++", "g++", "clang++")
    if environment.get("XDG_CACHE_HOME"):
        return Toolchain(compilers, Path(environment["XDG_CACHE_HOME"]) / "alexnet_dist")
    with suppress(RuntimeError):  # a user without HOME and without an entry in passwd
        return Toolchain(compilers, Path.home() / ".cache" / "alexnet_dist")
    return Toolchain(compilers, None)
