"""Kill a random process of a training at random moments, again and again, and see that it ends as if nothing had happened.

python -m tests.reliability.kills --data data/quickstart --runs 10 --kills 5 --processes 2,4

prints the worst and the median time from a kill to the next training step, and fails if a run ends with other parameters than
the undisturbed one.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch

from tests.commands import read_metrics, read_tensors
from tests.reliability.started import PLAIN, Started, started

RUN = (
    *("data.size=64", "trainer.batch_size=32", "trainer.log_every=1", "evaluation.views=1", "evaluation.batch_size=96"),
    *("checkpoint.every=10", "trainer.max_steps=200", "parallel.max_restarts=100"),
)


def undisturbed(data: Path, processes: int, folder: Path, *words: str) -> Path:
    """The run folder of the training that nobody disturbs."""
    folder.mkdir(parents=True)
    with started(PLAIN, *RUN, f"data.root={data}", f"parallel.processes={processes}", *words, cwd=folder) as run:
        assert run.end(600) == 0, run.said()
    return run.run_dir


def with_kills(data: Path, processes: int, kills: int, seed: int, folder: Path, *words: str) -> tuple[Path, list[float]]:
    """The run folder of a training that lost a process up to so many times, and the seconds from a kill to the next step.

    Three of ten kills are followed by one before the next step; of those no time is taken.
    """
    folder.mkdir(parents=True)
    chance = random.Random(seed)
    seconds = []
    with started(PLAIN, *RUN, f"data.root={data}", f"parallel.processes={processes}", *words, cwd=folder) as run:
        run.wait_until(lambda: len(run.ranks()) == processes)
        wait = chance.uniform(0, 4)
        for kill in range(1, kills + 1):
            time.sleep(wait)
            while run.process.poll() is None and not run.ranks():
                time.sleep(0.01)
            if run.process.poll() is not None:
                break
            chance.choice(run.ranks()).kill()
            killed = time.monotonic()
            if chance.random() < 0.3:  # the next one hits the start of the processes
                run.wait_until(lambda kill=kill: f"restart {kill} of" in run.said())
                wait = chance.uniform(0, 1.5)
                continue
            took = _seconds_to_next_step(run, kill, killed)
            if took is None:
                break
            seconds.append(took)
            wait = chance.uniform(0, 4)  # it hits a step, a checkpoint or an evaluation
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


def _seconds_to_next_step(run: Started, kill: int, killed: float) -> float | None:
    """None when the kill came too late to matter."""
    size = None
    metrics = run.run_dir / "metrics.jsonl"
    while run.process.poll() is None:
        assert time.monotonic() - killed < 120, run.said()
        if f"restart {kill} of" in run.said():
            now = metrics.stat().st_size if metrics.exists() else 0
            if size is not None and now > size:
                return time.monotonic() - killed
            size = now
        time.sleep(0.01)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--kills", type=int, default=5, help="in each run")
    parser.add_argument("--processes", default="2,4")
    arguments = parser.parse_args()
    data = arguments.data.absolute()
    seconds: list[float] = []
    killed = 0
    with tempfile.TemporaryDirectory() as folder:
        for processes in map(int, arguments.processes.split(",")):
            expected = undisturbed(data, processes, Path(folder) / f"undisturbed-{processes}")
            for number in range(arguments.runs // len(arguments.processes.split(","))):
                run_dir, took = with_kills(data, processes, arguments.kills, number, Path(folder) / f"{processes}-{number}")
                same_run(expected, run_dir)
                seconds += took
                killed += (run_dir.parent / "log").read_text().count(": restart ")
                print(f"{processes} processes, run {number}: {[round(s, 1) for s in took]} s; same bits", flush=True)
    print(f"{killed} kills: median {statistics.median(seconds):.1f} s, worst {max(seconds):.1f} s to the next step")


if __name__ == "__main__":
    main()
