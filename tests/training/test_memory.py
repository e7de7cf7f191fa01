"""What malloc keeps for the next step."""

import subprocess
import sys

# Eight threads that live side by side take turns with 50 MiB, in pieces of 1 MiB. Prints by how many bytes the resident set grew.
TURNS = """
import threading
import psutil, torch
from alexnet_dist.parallel.process import keep_freed_memory

keep_freed_memory()
all_started = threading.Barrier(8)
one_by_one = threading.Lock()

def turn():
    torch.empty(1)
    all_started.wait()
    with one_by_one:
        images = [torch.ones(256 * 1024) for _ in range(50)]
        del images  # before the next one's turn

before = psutil.Process().memory_info().rss
threads = [threading.Thread(target=turn) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(psutil.Process().memory_info().rss - before)
"""


def test_threads_that_take_turns_use_the_same_memory() -> None:
    grown = int(subprocess.run([sys.executable, "-c", TURNS], check=True, capture_output=True, text=True).stdout)
    assert grown < 2 * 50 * 2**20
