"""Which cores the decoder's threads are pinned to, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CORES = sorted(os.sched_getaffinity(0))

# Prints for each of DALI's working threads its name in its pool, and the cores that it may run on.
CORES_OF_THE_DECODER = """
import os
import sys
from contextlib import closing
from pathlib import Path

import torch

from alexnet_dist.data.feed import TrainFeed
from alexnet_dist.data.images import open_split

def threads():
    return {int(task.name): (task / "comm").read_text() for task in Path("/proc/self/task").iterdir()}

images = open_split(Path(sys.argv[1]) / "train")
feed = TrainFeed(
    images, seed=0, batch_size=8, replica=0, replicas=1, part=0, parts=1, size=48, crop=40, mirror=True, threads=2,
    device=torch.device("cpu"), exchange=None,
)
with closing(feed):
    next(feed)
    for task, name in sorted(threads().items()):
        if name.startswith("[DALI][TP"):
            print(name[7:10], *sorted(os.sched_getaffinity(task)))
"""


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, [CORES[0], CORES[1 % len(CORES)]]),
        ({"LOCAL_RANK": "1"}, [CORES[2 % len(CORES)], CORES[3 % len(CORES)]]),
        ({"DALI_AFFINITY_MASK": f"{CORES[-1]},{CORES[0]}"}, [CORES[-1], CORES[0]]),
    ],
    ids=["alone", "second rank", "the user's list"],
)
def test_each_decoding_thread_has_a_core(drawn_images: Path, variables: dict[str, str], expected: list[int]) -> None:
    cores = decoder_cores(drawn_images, variables)
    assert cores["TP1"] == [[expected[1]]]
    assert len(cores["TP0"]) == 2, "the other reads the images' sides"
    assert [expected[0]] in cores["TP0"]


@pytest.mark.parametrize("mask", ["", str(CORES[0])], ids=["empty", "too short"])
def test_a_list_without_a_core_for_each_thread_pins_none(drawn_images: Path, mask: str) -> None:
    assert decoder_cores(drawn_images, {"DALI_AFFINITY_MASK": mask}) == {"TP0": [CORES, CORES], "TP1": [CORES]}


def decoder_cores(images: Path, variables: dict[str, str]) -> dict[str, list[list[int]]]:
    """The cores that DALI's working threads may run on, by their names: the decoder has two, and what reads sides the first."""
    words = [sys.executable, "-c", CORES_OF_THE_DECODER, str(images)]
    others = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "DALI_AFFINITY_MASK")}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True, env=others | variables)
    assert "affinity" not in done.stderr, done.stderr
    cores: dict[str, list[list[int]]] = {}
    for name, *own in map(str.split, done.stdout.splitlines()):
        cores.setdefault(name, []).append([int(core) for core in own])
    return cores
