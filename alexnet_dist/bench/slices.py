"""What slices cost: python -m alexnet_dist.bench slices

Whole training steps, preprocessing and update included, of one net in several numbers of slices; where there are replicas, beside
torch's DistributedDataParallel around the same net with the same update.
"""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch.nn.parallel import DistributedDataParallel

from alexnet_dist import text
from alexnet_dist.bench.rivals import Rival
from alexnet_dist.bench.rounds import machine, new_file, ratio, write
from alexnet_dist.bench.step import StepSettings, measure
from alexnet_dist.data.batch import NOT_KNOWN, Batch, pack
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.fields import PowerOfTwo, check, strict
from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table
from alexnet_dist.parallel.mesh import Layout, Mesh, join_mesh
from alexnet_dist.parallel.process import enter_process, world_size
from alexnet_dist.planning.work import UPDATE, take_turns
from alexnet_dist.settings import TrainerSettings
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.step import Step, load_kernels, loss_of
from alexnet_dist.training.update import MomentumSGD

DDP = "DistributedDataParallel"


@dataclass(frozen=True, config=strict)
class BenchSlicesSettings(StepSettings):
    """conf/bench_slices.yaml, checked."""

    slices: Annotated[list[PowerOfTwo], Field(min_length=1)]


def run(config: dict[str, Any]) -> None:
    """Measure a step in each number of slices, in turns, print a table and write the figures, as one process of the mesh."""
    settings = check(BenchSlicesSettings, config)
    check_measurable(settings, settings.layout(world_size()))
    table = settings.table()
    process = enter_process(settings.device, "fp32", table.towers * max(settings.slices))
    device, threads = process.device, process.threads  # as many as the trainer gives the smallest parts
    with ExitStack() as at_end:
        mesh = at_end.enter_context(join_mesh(table.towers, device, settings.parallel.timeout))
        display = at_end.enter_context(Display(mesh.rank))
        if mesh.rank == 0:
            new_file(settings.output, "slices")
        native = load_kernels("auto", device, display.say)
        preprocess = Preprocess(table.input_size + 32, table.input_size, "aligned").to(device)
        batch = random_batch(table, settings.batch_size // mesh.layout.replicas, device)
        rivals = {}
        for count in settings.slices:
            rivals[f"slices: {count}"], release = in_slices(table, preprocess, mesh, native, batch, count)
            at_end.callback(release)
        if mesh.layout.replicas > 1:
            rivals[DDP] = by_ddp(table, preprocess, mesh, native, batch)
        turns = {}
        for name, step in rivals.items():
            display.say(f"warming up: {name}")
            turns[name] = partial(measure, Rival(step, everyone=True), mesh, settings.steps, settings.batch_size, threads)
            turns[name]()
        rates = take_turns(turns, settings.rounds, partial(display.show, "measuring"))
        if mesh.rank == 0:
            first = next(iter(rates))
            rows = [(name, f"{median(own):.1f}", f"{ratio(rates, name, first):.3f}") for name, own in rates.items()]
            numbers = ("images/s", f"of {first}")
            title = f"{table.name}, {text.counted(mesh.layout.processes, 'process')}, replicas: {mesh.layout.replicas}"
            display.console.print(text.table(title, ("step", *numbers), rows, numbers))
            figures = {"bench": "slices", "machine": machine(), "settings": config, "images_per_second": rates}
            write(new_file(settings.output, "slices"), figures)


def random_batch(table: Table, images: int, device: torch.device) -> Batch:
    """A replica's images as the feed gives them, always the same."""
    generator, side = np.random.default_rng(0), table.input_size
    pixels = torch.from_numpy(generator.integers(256, size=(images, side, side, 3), dtype=np.uint8)).permute(0, 3, 1, 2)
    offsets = generator.integers(33, size=(2, images))
    colour, mirror = generator.normal(scale=0.1, size=(images, 3)).astype(np.float32), generator.random(images) < 0.5
    packed = pack(generator.integers(table.classes, size=images), *offsets, colour, mirror, device=device)
    return Batch.of(0, 0, NOT_KNOWN, pixels.to(device), packed)


def in_slices(
    table: Table, preprocess: Preprocess, mesh: Mesh, native: bool, batch: Batch, count: int
) -> tuple[Callable[[], object], Callable[[], None]]:
    """The trainer's own step of a net of its own, and what is to be called before the mesh is left."""
    net, optimizer = new_net(table, mesh, native)
    whole = len(batch.labels) * mesh.layout.replicas
    trainer = TrainerSettings(1, None, whole, 1, 1, "stop", "auto", "auto", False, None, slices=count)
    step = Step(net, preprocess, optimizer, mesh, trainer, 0, nullcontext, print)
    return partial(step.take, batch, 0, colour=True), step.release


def by_ddp(table: Table, preprocess: Preprocess, mesh: Mesh, native: bool, batch: Batch) -> Callable[[], None]:
    """The same step with gradients reduced by torch, whose order of addition is its own."""
    net, optimizer = new_net(table, mesh, native)
    parallel = DistributedDataParallel(net, process_group=mesh.replica_group, gradient_as_bucket_view=True)
    key = DropoutKey(0, torch.zeros((), dtype=torch.int64, device=mesh.device), mesh.replica * len(batch.labels))

    def step() -> None:
        images = preprocess.of_training(batch, True, native)
        loss, _ = loss_of(parallel, images, batch.labels, key, mesh, nullcontext, native)
        loss.backward()
        optimizer.step(loss.detach() < torch.inf)
        optimizer.zero_grad()

    return step


def new_net(table: Table, mesh: Mesh, native: bool) -> tuple[Net, MomentumSGD]:
    net = Net(table, mesh.crossing, native).to(mesh.device)
    net.initialise(0)
    return net, MomentumSGD(net, UPDATE, mesh.tower_group, net.towers_held, native=native)


def prepare_start(config: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Check everything before a process is started; how many to start, and the configuration for them."""
    settings = check(BenchSlicesSettings, config)
    check_measurable(settings, layout := settings.layout())
    new_file(settings.output, "slices")
    return layout.processes, config


def check_measurable(settings: BenchSlicesSettings, layout: Layout) -> None:
    """Raises UserError where the slices cannot be shared so: before anything is measured."""
    for count in settings.slices:
        if count % layout.replicas or settings.batch_size % count:
            raise UserError(
                f"slices={count} of batch_size={settings.batch_size} cannot be shared by {layout.replicas} replicas: the slices "
                "must be a multiple of the replicas and divide the batch"
            )
