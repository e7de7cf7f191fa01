"""A training step counted and not taken: launches, memory traffic and host synchronisations, by layer, for a device that need
not be there.

python -m alexnet_dist.bench count model=paper precision=bf16 batch_size=128 device=cuda format=json
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from rich.console import Console

from alexnet_dist.bench.tally import Count, Tally
from alexnet_dist.data.batch import NOT_KNOWN, PACKED_BYTES, Batch
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.fields import Positive, PowerOfTwo, check, strict
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table, build_table
from alexnet_dist.parallel.imagined import imagined_mesh
from alexnet_dist.parallel.mesh import Layout, plan_layout
from alexnet_dist.planning.work import UPDATE as RULE
from alexnet_dist.settings import PrecisionSettings, TrainerSettings
from alexnet_dist.text import table as text_table
from alexnet_dist.training.step import Step, narrow_copies
from alexnet_dist.training.timeline import named_parts
from alexnet_dist.training.update import MomentumSGD


@dataclass(frozen=True, config=strict)
class CountedProcesses:
    processes: Positive | Literal["auto"]


@dataclass(frozen=True, config=strict)
class CountSettings:
    """What conf/bench_count.yaml may say."""

    model: dict[str, Any]
    precision: PrecisionSettings
    batch_size: Positive
    slices: PowerOfTwo
    device: Literal["cuda"]
    native: Literal["auto", "on", "off"]
    parallel: CountedProcesses
    format: Literal["table", "json"]


def run(config: dict[str, Any]) -> None:
    """Count, and print."""
    settings = check(CountSettings, config)
    table = build_table(settings.model)
    wanted = settings.parallel.processes
    layout = plan_layout(table.towers if isinstance(wanted, str) else wanted, table.towers)
    native = settings.native != "off"
    counts = count_step(table, settings.precision.kind, settings.batch_size, layout, native, settings.slices)
    figures = summed(counts, settings.batch_size // layout.replicas)
    if settings.format == "json":
        print(json.dumps(figures), flush=True)
        return
    rows = [
        (name, f"{part['launches']}", f"{part['bytes_per_image'] / 1e6:.2f}", f"{part['synchronisations']}")
        for name, part in [*figures["layers"].items(), ("all", figures)]
    ]
    numbers = ("launches", "MB an image", "host waits")
    Console().print(text_table(f"{table.name}, a step of the first process", ("layer", *numbers), rows, numbers))


def count_step(
    table: Table, precision: str, batch_size: int, layout: Layout, native: bool, slices: int = 1, rank: int = 0
) -> dict[str, Count]:
    """The counts of a process's step, preprocessing and update included and the feed not, by the parts of `named_parts` and what
    is beside them. It is taken as the trainer takes it on GPUs, on tensors that hold nothing and among processes that are not
    there.

    Raises:
        UserError: the processes and slices do not divide the batch.
    """
    meta = torch.device("meta")
    parts = layout.replicas * -(-slices // layout.replicas)  # as the step cuts them
    for count, what in ((layout.processes, "processes"), (parts, "slices")):
        if batch_size % count:
            raise UserError(f"batch_size={batch_size} cannot be shared by {count} {what}: take a multiple of that")
    with imagined_mesh(layout, rank, meta) as mesh, meta_as_gpu(precision):
        net = Net(table, mesh.crossing, native).to(meta)
        copies = narrow_copies(net, precision, native, added=layout.replicas * slices > 1)
        optimizer = MomentumSGD(net, RULE, mesh.tower_group, net.towers_held, copies, native)
        preprocess = Preprocess(table.input_size + 32, table.input_size, "aligned").to(meta)
        trainer = TrainerSettings(1, None, batch_size, 1, 1, "stop", "auto", "off", False, None, slices=slices)
        step = Step(net, preprocess, optimizer, mesh, trainer, 0, nullcontext, print)
        images, side = batch_size // layout.replicas, table.input_size
        with meta:
            pixels = torch.empty(images, side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
            packed = torch.empty(images * PACKED_BYTES, dtype=torch.uint8)
        batch = Batch.of(0, 0, NOT_KNOWN, pixels, packed)
        for tally in (Tally(), Tally()):  # the first time buffers and copies of the weights are made
            with tally, named_parts(net, mesh, tally.begin, tally.end):
                step.take(batch, 0, colour=True)
    return tally.counts


@contextmanager
def meta_as_gpu(precision: str) -> Iterator[None]:
    """Within it products of tensors that hold nothing are as a GPU's of that precision: torch has no autocast for them."""
    torch.set_autocast_enabled("cuda", precision == "bf16")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


def summed(counts: dict[str, Count], images: int) -> dict[str, Any]:
    """The figures of a step over so many images: of all of it, and of each layer, forward and backward."""
    layers: defaultdict[str, Count] = defaultdict(Counter)
    for part, count in counts.items():
        layers[part.partition(" ")[0]].update(count)

    def figures(count: Count) -> dict[str, Any]:
        return {
            "launches": count["launches"],
            "bytes_per_image": round(count["bytes"] / images),
            "synchronisations": count["synchronisations"],
        }

    whole = sum(counts.values(), Counter())
    return {**figures(whole), "layers": {layer: figures(count) for layer, count in layers.items()}}
