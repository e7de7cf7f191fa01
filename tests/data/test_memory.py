"""The feed's memory over ten epochs, in a process of its own."""

import subprocess
import sys
from pathlib import Path

WARM, EPOCHS = 3, 10
MEGABYTE = 2**20

EPOCHS_OF_THE_FEED = """
import sys
from pathlib import Path

import psutil
import torch

from alexnet_dist.data.feed import TrainFeed
from alexnet_dist.data.images import open_split

images = open_split(Path(sys.argv[1]) / "train")
feed = TrainFeed(
    images, seed=0, batch_size=64, replica=0, replicas=1, part=0, parts=1, size=48, crop=40, mirror=True, threads=2,
    device=torch.device("cpu"), exchange=None,
)
with feed:
    for _ in range(int(sys.argv[2])):
        for _ in range(feed.batches_per_epoch):
            next(feed)
        print(psutil.Process().memory_info().rss, flush=True)
"""


def test_memory_stays_flat_over_ten_epochs(drawn_images: Path) -> None:
    """The drawn images are scaled on the way, so that reading, decoding, scaling and cutting all have their turn."""
    words = [sys.executable, "-c", EPOCHS_OF_THE_FEED, str(drawn_images), str(WARM + EPOCHS)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    resident = [int(line) for line in done.stdout.split()]
    grown = max(resident[WARM:]) - resident[WARM - 1]
    assert grown < 8 * MEGABYTE, [round(size / MEGABYTE) for size in resident]
