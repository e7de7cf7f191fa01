"""The step beside other ways of taking it, on the same batch: python -m alexnet_dist.bench step

One process a tower. Rivals that are one process run in the first with all the cores, while the others wait.
"""

import time
from functools import partial
from statistics import median
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.table import Table as RichTable

from alexnet_dist import text
from alexnet_dist.bench.plain import ShiftedSumsNorm, plain_net
from alexnet_dist.bench.rivals import OURS, OURS_BF16, PRODUCTS, Rival, all_rivals, waiting
from alexnet_dist.bench.rounds import machine, new_file, ratio, write
from alexnet_dist.errors import UserError
from alexnet_dist.fields import FilePath, Positive, check, strict
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table, build_table
from alexnet_dist.parallel.mesh import Layout, Mesh, default_processes, join_mesh, plan_layout
from alexnet_dist.parallel.process import enter_process, keep_freed_memory, pick_device, share_cores, world_size
from alexnet_dist.planning.work import random_batch, seconds_of, take_turns, wait_for_gpu
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.step import load_kernels
from alexnet_dist.training.timeline import Timeline, seconds_by_layer


@dataclass(frozen=True, config=strict)
class BenchProcesses:
    processes: Positive | Literal["auto"]
    timeout: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=strict)
class StepSettings:
    """What the benches of steps have in common."""

    model: dict[str, Any]
    batch_size: Positive
    rounds: Positive
    steps: Positive
    device: Literal["auto", "cpu", "cuda"]
    output: FilePath | None
    parallel: BenchProcesses

    def table(self) -> Table:
        return build_table(self.model)

    def layout(self, started: int | None = None) -> Layout:
        """That of the processes that are `started`, or else of those to start. Raises UserError where they cannot be."""
        towers, wanted = self.table().towers, self.parallel.processes
        planned = default_processes(towers, self.device) if isinstance(wanted, str) else wanted
        layout = plan_layout(started or planned, towers)
        if not started:
            pick_device(self.device, layout.processes - 1)
        if self.batch_size % layout.processes:
            raise UserError(
                f"batch_size={self.batch_size} cannot be shared by {layout.processes} processes: take a multiple of that"
            )
        return layout


@dataclass(frozen=True, config=strict)
class BenchStepSettings(StepSettings):
    """conf/bench_step.yaml, checked."""

    rivals_keep_memory: bool


def run(config: dict[str, Any]) -> None:
    """Measure all rivals in turns, print tables and write the figures, as one process of the mesh."""
    settings = check(BenchStepSettings, config)
    check_measurable(settings, settings.layout(world_size()))
    table = settings.table()
    device = enter_process(settings.device, "fp32").device
    with join_mesh(table.towers, device, settings.parallel.timeout) as mesh, Display(mesh.rank) as display:
        if mesh.rank == 0:
            new_file(settings.output, "step")
        torch.manual_seed(0)
        images, labels = random_batch(table, settings.batch_size, device)
        native = load_kernels("auto", device, display.say)
        ours = Net(table, mesh.crossing, native).to(device)
        rivals = all_rivals(table, ours, images, labels, mesh, settings.rivals_keep_memory)
        turns = {}
        for name, rival in rivals.items():
            display.say(f"warming up: {name}")
            measure(rival, mesh, 2, settings.batch_size)
            turns[name] = partial(measure, rival, mesh, settings.steps, settings.batch_size)
        rates = take_turns(turns, settings.rounds, partial(display.show, "measuring"))

        measure(rivals[OURS], mesh, 1, settings.batch_size)
        timeline = Timeline(mesh)
        with timeline.watching(ours):
            rivals[OURS].step()
        spans = timeline.read()
        figures: dict[str, Any] = {
            "images_per_second": rates,
            "crossing": crossing_times(rivals, mesh, settings.rounds * settings.steps),
            "layers": seconds_by_layer(spans),
            "timeline": spans,
            "gflop_per_second": {name: median(own) * table.training_flops / 1e9 for name, own in rates.items()},
        }
        if mesh.rank == 0:
            display.console.print(rates_table(table, rates))
            display.console.print(layers_table(figures["layers"]))
            display.say(summary(rates, figures))
            write(new_file(settings.output, "step"), {"bench": "step", "machine": machine(), "settings": config, **figures})


def measure(rival: Rival, mesh: Mesh, steps: int, batch: int, threads: int | None = None) -> float:
    """Images a second over so many steps, after one that is not counted, from when all are ready to when all are done. `threads`
    are torch's; by default the process's share of the cores."""
    mesh.peers.rest()
    torch.set_num_threads(threads or share_cores(mesh.layout.processes if rival.everyone else 1))
    if mesh.device.type == "cpu":
        keep_freed_memory(rival.keeps_memory)
    if rival.everyone or mesh.rank == 0:
        rival.step()
    wait_for_gpu(mesh)
    dist.barrier(group=mesh.host_group)
    begun = time.perf_counter()
    if rival.everyone or mesh.rank == 0:
        for _ in range(steps):
            rival.step()
        wait_for_gpu(mesh)
    dist.barrier(group=mesh.host_group)
    return batch * steps / (time.perf_counter() - begun)


def crossing_times(rivals: dict[str, Rival], mesh: Mesh, steps: int) -> dict[str, float]:
    """Of the first process, a step's medians: bytes that it sends, seconds of a step, seconds that it stands waiting for
    messages, and those that it would stand if it computed nothing meanwhile."""
    times = []
    for step in (rivals[OURS].step, waiting(rivals[OURS].step, mesh.crossing)):
        rows = []
        for _ in range(steps):
            mesh.crossing.read()
            rows.append((seconds_of(step, mesh), *mesh.crossing.read()))
        times.append([median(column) for column in zip(*rows, strict=True)])
    (seconds, sent, exposed), (_, _, unhidden) = times
    return {"bytes_a_step": sent, "step_seconds": seconds, "exposed_seconds": exposed, "waiting_seconds": unhidden}


def rates_table(table: Table, rates: dict[str, list[float]]) -> RichTable:
    rows = [
        (name, f"{median(own):.1f}", f"{median(own) * table.training_flops / 1e9:.0f}", f"{ratio(rates, OURS, name):.2f}")
        for name, own in rates.items()
    ]
    numbers = ("images/s", "GFLOP/s", "this trainer / rival")
    return text.table(f"{table.name}, training steps", ("rival", *numbers), rows, numbers)


def layers_table(layers: dict[str, dict[str, float]]) -> RichTable:
    rows = [(name, f"{1000 * times['forward']:.3g}", f"{1000 * times['backward']:.3g}") for name, times in layers.items()]
    numbers = ("forward, ms", "backward, ms")
    return text.table("where the first process's step goes", ("layer", *numbers), rows, numbers)


def summary(rates: dict[str, list[float]], figures: dict[str, Any]) -> str:
    crossing = figures["crossing"]
    return (
        f"{ratio(rates, OURS, PRODUCTS):.0%} of the rate of the products alone; bf16 is {ratio(rates, OURS_BF16, OURS):.2f} "
        f"times fp32; {crossing['bytes_a_step'] / 1e6:.1f} MB cross a step, for which a process stands "
        f"{crossing['exposed_seconds'] / crossing['step_seconds']:.1%} of its time "
        f"({crossing['waiting_seconds'] / crossing['step_seconds']:.1%} if it computed nothing meanwhile)"
    )


def prepare_start(config: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Check everything before a process is started; how many to start, and the configuration for them."""
    settings = check(BenchStepSettings, config)
    check_measurable(settings, layout := settings.layout())
    new_file(settings.output, "step")
    return layout.processes, config


def check_measurable(settings: BenchStepSettings, layout: Layout) -> None:
    """Raises UserError where the rivals cannot be measured so: before anything is."""
    if layout.replicas > 1:
        raise UserError(
            f"parallel.processes={layout.processes} makes replicas, where one is measured: take {layout.shares} or fewer"
        )
    with torch.device("meta"):  # refused here where it cannot be a rival
        plain_net(settings.table(), ShiftedSumsNorm)
