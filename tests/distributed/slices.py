"""Runs of one net in slices on other numbers of processes, and the hashes of the weights that they end with.

    python -m tests.distributed.slices

trains the quick start's net and a small one of the paper for 60 steps, in 4 and in 8 slices, with 1, 2, 4 and 8 processes, with
and without native operations, in fp32 and bf16. It prints a line for each combination; its status is 1 where two hashes differ.
"""

import itertools
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alexnet_dist.data import quickstart
from tests.forked import ranks, run_forked
from tests.golden.curves import SMALL

NETS = {
    "quick start": (),
    "paper": ("experiment=paper", *SMALL, "model.layers.fc8.filters=8", "trainer.batch_size=32", "optimizer.lr=0.1"),
}
QUIET = ("device=cpu", "tracking=none", "run.report=false", "trainer.validate_every=1000", "evaluation.views=1")


def train_in(processes: int, *words: str, cwd: Path) -> str:
    """The hash that the last line of a run in so many processes names."""
    environments = ranks(processes) if processes > 1 else ({},)
    alone = ("parallel.processes=1",) if processes == 1 else ()
    done = run_forked("train", *QUIET, *alone, *words, cwd=cwd, environments=environments)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"; weights ([0-9a-f]{12})\n*$", done.stdout)
    assert found, done.stdout
    return found[1]


def combinations() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each combination but for the number of processes: in words, and as overrides."""
    for (net, words), slices, native, precision in itertools.product(NETS.items(), (4, 8), ("on", "off"), ("fp32", "bf16")):
        yield f"{net}, {slices} slices, native {native}, {precision}", (
            *words, f"trainer.slices={slices}", f"trainer.native={native}", f"precision={precision}",
        )  # fmt: skip


def main() -> None:
    alike = True
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        quickstart.make(images, lambda done, total: None)
        for number, (name, words) in enumerate(combinations()):
            slices = int(re.search(r"slices=(\d)", " ".join(words))[1])  # type: ignore[index]
            counts = [count for count in (1, 2, 4, 8) if count <= 2 * slices]
            said = (*words, "trainer.max_steps=60", f"data.root={images}")
            hashes = {train_in(count, *said, f"run.dir=run-{number}-{count}", cwd=Path(folder)) for count in counts}
            alike &= len(hashes) == 1
            print(f"{name}, {', '.join(map(str, counts))} processes: {', '.join(sorted(hashes))}", flush=True)
    sys.exit(not alike)


if __name__ == "__main__":
    main()
