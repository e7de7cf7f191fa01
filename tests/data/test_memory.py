"""The feed's memory over forty epochs, in a process of its own."""

import subprocess
import sys
from pathlib import Path

WARM, EPOCHS = 10, 40
MEGABYTE = 2**20

# Prints after each epoch the bytes of the resident set and those that malloc has given out.
EPOCHS_OF_THE_FEED = """
import ctypes
import sys
from pathlib import Path

import psutil
import torch

from alexnet_dist.data.feed import TrainFeed
from alexnet_dist.data.images import open_split
from alexnet_dist.training.step import keep_freed_memory


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


keep_freed_memory()
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo
images = open_split(Path(sys.argv[1]) / "train")
feed = TrainFeed(
    images, seed=0, batch_size=64, replica=0, replicas=1, part=0, parts=1, size=48, crop=40, mirror=True, threads=2,
    device=torch.device("cpu"), exchange=None,
)
with feed:
    for _ in range(int(sys.argv[2])):
        for _ in range(feed.batches_per_epoch):
            next(feed)
        print(psutil.Process().memory_info().rss, mallinfo().uordblks, flush=True)
"""


def test_memory_stays_flat_over_forty_epochs(drawn_images: Path) -> None:
    """The drawn images are scaled on the way, so that reading, decoding, scaling and cutting all have their turn."""
    words = [sys.executable, "-c", EPOCHS_OF_THE_FEED, str(drawn_images), str(WARM + EPOCHS)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    resident, in_use = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert max(resident[WARM:]) - resident[WARM - 1] < 12 * MEGABYTE, [round(size / MEGABYTE) for size in resident]
    # After 1,000 batches of 64 images, 32 bytes an image would be seen.
    assert max(in_use[WARM:]) - in_use[WARM - 1] < 2 * MEGABYTE, [round(size / MEGABYTE, 1) for size in in_use]
