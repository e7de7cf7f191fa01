"""What a checkpoint costs the training: the time that the steps during and after a save take longer than the others.

python -m tests.reliability.save_cost experiment=paper data.root=... trainer.batch_size=128

The rest of the words are the training's. Prints each save's cost as a share of 50 steps.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.reliability.started import PLAIN, started

EVERY, STEPS, INTERVAL = 10, 29, 50
RUN = (
    *("trainer.log_every=1", "trainer.validate_every=1000", "trainer.epochs=1000", f"trainer.max_steps={STEPS}"),
    *("evaluation.views=1", f"checkpoint.every={EVERY}", "checkpoint.keep=1"),
)


def main() -> None:
    seen: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder, started(PLAIN, *RUN, *sys.argv[1:], cwd=Path(folder)) as run:
        while run.process.poll() is None and len(seen) <= STEPS:
            seen.setdefault(run.last_step(), time.perf_counter())
            time.sleep(0.01)
        assert run.end(600) == 0, run.said()
    # A step's line is there when the next step is done; that of a step that is saved before it is copied, with the one before it.
    behind = EVERY // 2
    undisturbed = statistics.median(
        seen[step] - seen[step - 1] for step in range(behind + 1, STEPS - 1) if behind < step % EVERY < EVERY - 1
    )
    for save in range(EVERY, STEPS, EVERY):
        cost = seen[save + behind] - seen[save] - (behind + 1) * undisturbed
        share = cost / (INTERVAL * undisturbed)
        print(f"save at step {save}: {cost:+.2f} s beside steps of {undisturbed:.2f} s, {share:.2%} of {INTERVAL} steps")


if __name__ == "__main__":
    main()
