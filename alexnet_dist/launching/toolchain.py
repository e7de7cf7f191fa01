"""Where the native code's compiler and cache are, as the environment has it."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from alexnet_dist.kernels.native import Toolchain


def find_toolchain(environment: Mapping[str, str] = os.environ) -> Toolchain:
    """CXX names the compiler, else c++, g++ or clang++ is taken; the cache is alexnet_dist/ under XDG_CACHE_HOME, or ~/.cache."""
    compilers = [environment["CXX"]] if environment.get("CXX", "").strip() else ["c++", "g++", "clang++"]
    caches = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Toolchain(tuple(tuple(shlex.split(words)) for words in compilers), Path(caches) / "alexnet_dist")
