"""Rates, what the machine is, and the file that keeps the figures."""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from alexnet_dist.dali import dali_package
from alexnet_dist.errors import UserError
from alexnet_dist.files import check_new, write_new


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, GPU and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "torchvision", dali_package(), "numpy", "pillow")},
    }


def rate_of(batches: Iterator[int], seconds: float, warm_up: int) -> float:
    """How many a second are in the batches, by what they give, over `seconds` after `warm_up` batches that are not counted."""
    for _ in range(warm_up):
        next(batches)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += next(batches)
    return done / (time.perf_counter() - began)


def ratio(rates: Mapping[str, list[float]], name: str, to: str) -> float:
    """The median over the rounds of one rival's rate over another's in the same round."""
    return median(a / b for a, b in zip(rates[name], rates[to], strict=True))


def new_file(wanted: str | None, name: str) -> Path:
    """Where the figures go: `wanted`, or a new file under bench/. Raises UserError where it is there already or cannot be."""
    path = Path(wanted or f"bench/{time.strftime('%Y-%m-%d_%H-%M-%S')}-{name}.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={path} cannot be written ({error.strerror}): name another file") from None
    return check_new("output", str(path))


def write(path: Path, figures: Mapping[str, Any]) -> None:
    """Keep the figures as JSON. Raises as `write_new`."""
    write_new(path, lambda file: file.write(json.dumps(figures, indent=2).encode() + b"\n"))
