"""The feeds' memory over epochs and over passes, in processes of their own."""

import subprocess
import sys
from pathlib import Path
from statistics import median

WARM, EPOCHS = 10, 40
MEGABYTE = 2**20

START = """
import ctypes
import gc
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import torch

from alexnet_dist.parallel.process import keep_freed_memory
from alexnet_dist.data.feed import TrainFeed, ValidationFeed
from alexnet_dist.data.images import open_split


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


keep_freed_memory()
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo
images = open_split(Path(sys.argv[1]) / "train")
"""

# Prints after each epoch the bytes of the resident set, and those that malloc has given out once the feed is as far ahead as it
# goes.
EPOCHS_OF_THE_FEED = """
def settled():
    seen = [0, mallinfo().uordblks]
    while len(set(seen[-3:])) > 1:
        time.sleep(0.04)
        seen.append(mallinfo().uordblks)
    return seen[-1]

feed = TrainFeed(
    images, seed=0, batch_size=64, replica=0, replicas=1, part=0, parts=1, size=48, crop=40, mirror=True, threads=2,
    device=torch.device("cpu"), exchange=None,
)
with closing(feed):
    for _ in range(int(sys.argv[2])):
        for _ in range(feed.batches_per_epoch):
            next(feed)
        print(psutil.Process().memory_info().rss, settled(), flush=True)
"""

# Prints after each pass the threads of the process and the bytes that malloc has given out. Python looks for no cycles meanwhile.
PASSES_OF_THE_FEED = """
gc.disable()
feed = ValidationFeed(
    images, batch_size=400, replica=0, replicas=1, part=0, parts=1, size=48, threads=2, device=torch.device("cpu"), exchange=None
)
for _ in range(int(sys.argv[2])):
    for _ in feed:
        pass
    print(psutil.Process().num_threads(), mallinfo().uordblks, flush=True)
"""


def test_memory_stays_flat_over_forty_epochs(drawn_images: Path) -> None:
    """The drawn images are scaled on the way, so that reading, decoding, scaling and mirroring all have their turn."""
    resident, in_use = printed(EPOCHS_OF_THE_FEED, drawn_images, WARM + EPOCHS)
    assert max(resident[WARM:]) - resident[WARM - 1] < 8 * MEGABYTE, [round(size / MEGABYTE) for size in resident]
    usual = median(in_use[:WARM])
    assert max(in_use[WARM:]) - usual < 2 * MEGABYTE, [round(size / MEGABYTE, 1) for size in in_use]
    # From the one median to the other there are 1,000 batches of 64 images: 16 bytes an image would be seen.
    assert median(in_use[-WARM:]) - usual < MEGABYTE, [round(size / MEGABYTE, 1) for size in in_use]


def test_a_pass_over_a_validation_set_leaves_nothing(drawn_images: Path) -> None:
    threads, in_use = printed(PASSES_OF_THE_FEED, drawn_images, 5 + 20)
    # A pass has ended when its last batch is here; its threads may end a moment later.
    assert max(threads[5:]) < threads[4] + 8, threads
    assert max(in_use[5:]) - in_use[4] < 8 * MEGABYTE, [round(size / MEGABYTE, 1) for size in in_use]


def printed(program: str, images: Path, turns: int) -> list[tuple[int, ...]]:
    """The columns of what START and a program print."""
    words = [sys.executable, "-c", START + program, str(images), str(turns)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    return list(zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True))
