"""A training step of two towers on two hosts whose link is slowed, beside what a probe of the fast link predicts: both while
it waits for what crosses and while it computes meanwhile.

    python -m tests.distributed.slow_link 128 10e9,1e9,200e6 model=paper

The first argument is the batch, the second the rates in bits/s; overrides of the trainer's configuration follow. It needs root,
and prints a line for each rate and way, and JSON at the end.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from alexnet_dist.launching.commands import compose
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.parallel.process import keep_freed_memory
from alexnet_dist.planning.machine import slowed
from alexnet_dist.planning.predict import Job, Overlap, predict
from alexnet_dist.planning.probe import measure, training_step
from alexnet_dist.planning.work import seconds_of
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.step import WIRES, load_kernels
from tests.distributed.hosts import joined_hosts, limit_rate

ROUNDS = 3
UNSLOWED = 100e9  # bits/s
WAYS: tuple[Overlap, ...] = ("wait", "split")


def measure_on_hosts(batch: int, rates: list[float], overrides: list[str], scratch: Path) -> dict[str, Any]:
    """Start a process on each of two hosts; medians of what they have measured and predicted, by rate and way (wait, split).

    Raises:
        NotPermitted: there can be no hosts here.
        AssertionError: a process failed; its output is in the message.
    """
    words = ("-m", "tests.distributed.slow_link", "--here", str(batch), ",".join(map(str, rates)), *overrides)
    log = scratch / "log"
    with joined_hosts(2) as hosts:
        running = [host.torchrun(hosts[0], "2", "slow", *words, cwd=Path.cwd(), log=log, processes=1) for host in hosts]
        try:
            assert [process.wait(timeout=600) for process in running] == [0, 0], log.read_text()
        except subprocess.TimeoutExpired:
            raise AssertionError(log.read_text()) from None
    return json.loads(next(line for line in log.read_text().splitlines() if line.startswith("{")))


def on_a_host(batch: int, rates: list[float], overrides: list[str]) -> None:
    """One of the two processes. In every round the fast link is probed and each rate and way has its turn, so that a busy minute
    meets a prediction and what it is held against."""
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = "2"  # the trainer keeps the towers of a replica on one node: here they are to be on two
    config = compose("train", overrides)
    table, parallel, cpu = build_table(config["model"]), config["parallel"], torch.device("cpu")
    precision = config["precision"]["kind"]
    with join_mesh(table.towers, cpu, 300, WIRES[parallel["wire"]]) as mesh:
        native = load_kernels(config["trainer"]["native"], cpu, print)
        keep_freed_memory()
        step = training_step(table, batch, precision, mesh, native)
        job = Job.of(table, batch, precision, parallel["wire"])
        rows: dict[str, list[dict[str, float]]] = {f"{rate:g} {way}": [] for rate in rates for way in WAYS}
        for _ in range(ROUNDS):
            limit_rate(UNSLOWED)
            mesh.crossing.overlap = True
            machine = measure(table, batch, precision, mesh, native, 1, Display(rank=1))
            for rate in rates:
                limit_rate(rate)
                for way in WAYS:
                    predicted = predict(job, slowed(machine, rate), mesh.layout, way)
                    mesh.crossing.overlap = way == "split"
                    dist.barrier(group=mesh.host_group)
                    mesh.crossing.read()
                    measured, waited = max(mesh.from_everyone(seconds_of(step, mesh))), mesh.crossing.read()[1]
                    said = {"predicted": predicted.step, "exposed": predicted.exposed_crossings}
                    row = {"measured": measured, "waited": waited, **said, "ratio": predicted.step / measured}
                    rows[f"{rate:g} {way}"].append(row)
        if mesh.rank == 0:
            medians = {turn: {name: median(row[name] for row in own) for name in own[0]} for turn, own in rows.items()}
            print(json.dumps(medians), flush=True)


def main() -> None:
    words = sys.argv[1:]
    here = words[0] == "--here"
    batch, rates, overrides = int(words[here]), [float(rate) for rate in words[here + 1].split(",")], words[here + 2 :]
    if here:
        on_a_host(batch, rates, overrides)
        return
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure_on_hosts(batch, rates, overrides, Path(scratch))
    for turn, row in figures.items():
        rate, way = turn.split()
        print(
            f"{float(rate) / 1e6:8.0f} Mbit/s, {way:5}: measured {row['measured']:.3f} s ({row['waited']:.3f} s waiting), "
            f"predicted {row['predicted']:.3f} s ({row['exposed']:.3f}), {row['ratio'] - 1:+.0%}"
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
