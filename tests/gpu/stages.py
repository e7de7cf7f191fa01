"""The stages of a day with a GPU, and how a process of its own takes one."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gpu import graph, with_images, without_images

# Notes something found, as a line of JSON, at once: a stage that is ended has told what it knew.
Note = Callable[..., None]


@dataclass(frozen=True)
class Stage:
    """`work(note, dry)` within `seconds`; its docstring says what it is for."""

    name: str
    seconds: float
    work: Callable[[Note, bool], None]


STAGES = [
    Stage("machine", 60, without_images.machine),
    Stage("numerics", 120, without_images.numerics),
    Stage("masks", 60, without_images.masks),
    Stage("silence", 90, without_images.silence),
    Stage("pair", 150, without_images.pair),
    Stage("graph", 150, graph.graph),
    Stage("table", 420, without_images.table),
    Stage("profile", 90, without_images.profile),
    Stage("gpu_tests", 240, without_images.gpu_tests),
    Stage("sanitizer", 240, without_images.sanitizer),
    Stage("pixels", 90, with_images.pixels),
    Stage("feed", 300, with_images.feed),
    Stage("run", 200, with_images.run),
    Stage("kill", 120, with_images.kill),
]


def enter(name: str, found: Path, log: Path, dry: bool) -> None:
    """Take a stage, in a new process and with what it starts in a process group of its own; what it says goes to `log`."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)

    def note(**what: Any) -> None:
        with found.open("a") as file:
            file.write(json.dumps(what) + "\n")

    next(stage for stage in STAGES if stage.name == name).work(note, dry)
