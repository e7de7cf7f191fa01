"""Kill a random process of a training at random moments, again and again, and see that it ends as if nothing had happened.

python -m tests.reliability.kills --data data/quickstart

kills fifty times, prints the worst and the median time from a kill to the next training step, and fails if the run ends with
other parameters than an undisturbed one.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.commands import read_metrics, read_tensors, train
from tests.reliability.started import PLAIN, Started, started

# With 160 images an epoch, and so a validation, ends every ten steps, with a checkpoint.
RUN = (
    *("data.size=64", "trainer.batch_size=16", "trainer.log_every=1", "evaluation.views=1", "evaluation.batch_size=32"),
    "data.statistics_images=16",
    *("checkpoint.every=10", "trainer.epochs=1000", "parallel.max_restarts=100"),
)
SIXTY = "trainer.max_steps=60"


def take_few(data: Path, folder: Path, train: int = 160, val: int = 32) -> Path:
    """A data.root with links to so many of the quick start's training and validation images, of each class as many."""
    for split, count in (("train", train // 8), ("val", val // 8)):
        for kind in sorted((data / split).iterdir()):
            (folder / split / kind.name).mkdir(parents=True)
            for file in sorted(kind.iterdir())[:count]:
                os.symlink(file.absolute(), folder / split / kind.name / file.name)
    return folder


def steps_for(kills: int) -> int:
    """So many steps that a run cannot end before it has lost so many processes: between two kills it comes a checkpoint further
    at most, which is ten steps."""
    return 20 + 10 * kills


def undisturbed(data: Path, processes: int, folder: Path, *words: str) -> Path:
    """The run folder of the training that nobody disturbs."""
    folder.mkdir(parents=True)
    train(*RUN, f"data.root={data}", f"parallel.processes={processes}", "run.dir=run", *words, cwd=folder, timeout=600)
    return folder / "run"


def with_kills(data: Path, processes: int, kills: int, seed: int, folder: Path, *words: str) -> tuple[Path, list[float]]:
    """The run folder of a training that lost a process so many times, and the seconds from a kill to the next step.

    Kills hit a step, a checkpoint or an evaluation. Three of ten are followed by one that hits the start of the processes;
    of those no time is taken.
    """
    folder.mkdir(parents=True)
    chance = random.Random(seed)
    seconds = []
    with started(PLAIN, *RUN, f"data.root={data}", f"parallel.processes={processes}", *words, cwd=folder) as run:
        starting = True
        for kill in range(1, kills + 1):
            if starting:
                run.wait_until(lambda: len(run.ranks()) == processes)
                moment, stepped = time.monotonic() + chance.uniform(0, 1.5), _grows(run)
                run.wait_until(lambda moment=moment, stepped=stepped: time.monotonic() >= moment or stepped())
            else:
                reached = run.last_step() + chance.randint(0, 10)
                run.wait_until(lambda reached=reached: run.last_step() >= reached)
                time.sleep(chance.uniform(0, 0.1))
            chance.choice(run.ranks()).kill()
            killed = time.monotonic()
            starting = chance.random() < 0.3
            if starting:
                run.wait_until(lambda kill=kill: f"restart {kill} of" in run.said())
            else:
                seconds.append(_seconds_to_next_step(run, kill, killed))
        assert run.end(600) == 0, run.said()
    return run.run_dir, seconds


def same_run(one: Path, other: Path) -> None:
    """Raises AssertionError unless two runs ended with the same parameters and momentum and tell of the same steps and losses."""
    expected, tensors = read_tensors(one), read_tensors(other)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name
    losses = [[(record["kind"], record["step"], record["loss"]) for record in read_metrics(run)] for run in (one, other)]
    assert losses[0] == losses[1]


def _seconds_to_next_step(run: Started, kill: int, killed: float) -> float:
    run.wait_until(lambda: f"restart {kill} of" in run.said())
    run.wait_until(_grows(run))
    return time.monotonic() - killed


def _grows(run: Started) -> Callable[[], bool]:
    """Whether a run's record has grown since it was last asked: a start behind a kill takes lines back before it adds any."""
    metrics = run.run_dir / "metrics.jsonl"
    sizes = [metrics.stat().st_size if metrics.exists() else 0]

    def grown() -> bool:
        sizes.append(metrics.stat().st_size if metrics.exists() else 0)
        return sizes[-1] > sizes[-2]

    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the quick start's images")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    steps = f"trainer.max_steps={steps_for(arguments.kills)}"
    with tempfile.TemporaryDirectory() as folder:
        few = take_few(arguments.data, Path(folder) / "images")
        expected = undisturbed(few, arguments.processes, Path(folder) / "undisturbed", steps)
        killed = Path(folder) / "killed"
        run_dir, seconds = with_kills(few, arguments.processes, arguments.kills, arguments.seed, killed, steps)
        same_run(expected, run_dir)
        restarts = (killed / "log").read_text().count(": restart ")
    print(f"seconds from a kill to the next step: {[round(took, 1) for took in sorted(seconds)]}")
    median = statistics.median(seconds)
    print(f"{restarts} kills: median {median:.1f} s, worst {max(seconds):.1f} s; the bits of an undisturbed run")


if __name__ == "__main__":
    main()
