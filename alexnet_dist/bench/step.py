"""The step beside other ways of taking it, on the same batch: python -m alexnet_dist.bench step

One process a tower. Rivals that are one process run in the first with all the cores, while the others wait.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, cast

import psutil
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic.dataclasses import dataclass as checked_dataclass
from rich import box
from rich.table import Table as RichTable
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_dist.bench.plain import plain_net, shifted_sums_norm, torch_norm
from alexnet_dist.bench.rounds import machine, new_file, ratio, take_turns, write
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import distributed_command
from alexnet_dist.model.dropout import DropoutKey
from alexnet_dist.model.layers import TowerLayer
from alexnet_dist.model.net import Net
from alexnet_dist.model.share import WHOLE, Share
from alexnet_dist.model.table import Table, TableError, build_table
from alexnet_dist.parallel.crossing import Crossing
from alexnet_dist.parallel.loss import split_cross_entropy
from alexnet_dist.parallel.mesh import Mesh, join_mesh, pick_device, plan_layout, share_cores
from alexnet_dist.settings import OptimizerSettings, Positive, check, strict
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.step import keep_freed_memory, load_kernels, narrow_copies, set_precision
from alexnet_dist.training.update import build_optimizer

OURS, OURS_WAITING = "this trainer, a process a tower", "the same, waiting for crossings"
OURS_BF16, OURS_ONE = "the same in bf16", "this trainer, one process"
EAGER, COMPILED = "plain net", "plain net, compiled"
PARALLEL, PARALLEL_COMPILED = "data parallel", "data parallel, compiled"
PRODUCTS, PRODUCTS_BF16 = "products alone", "products alone, bf16"

# So small a rate that the nets stay as they begin: on one batch they would soon have learnt it by heart, and gradients so small
# that they are denormal numbers take a CPU forty times as long.
RATE = 1e-9
UPDATE = OptimizerSettings(lr=RATE, momentum=0.9, weight_decay=0.0005, bias_lr_multiplier=1.0, bias_weight_decay=True)


@checked_dataclass(frozen=True, config=strict)
class BenchProcesses:
    processes: Positive | Literal["auto"]
    timeout: float


@checked_dataclass(frozen=True, config=strict)
class BenchStepSettings:
    """conf/bench_step.yaml, checked."""

    model: dict[str, Any]
    batch_size: Positive
    rounds: Positive
    steps: Positive
    device: Literal["auto", "cpu", "cuda"]
    rivals_keep_memory: bool
    output: str | None
    parallel: BenchProcesses

    def table(self) -> Table:
        try:
            return build_table(self.model)
        except TableError as error:
            raise UserError(f"model: {error}") from None


@dataclass(frozen=True)
class Rival:
    """`step` takes one step; `everyone`: in all processes at once, each with its share of the cores, else in the first alone.

    `keeps_memory`: with `keep_freed_memory`, as this trainer runs; without, as other programs do unless they are told to.
    """

    step: Callable[[], None]
    everyone: bool
    keeps_memory: bool = True


def run(config: dict[str, Any]) -> None:
    """Measure all rivals in turns, print tables and write the figures, as one process of the mesh."""
    settings = check(BenchStepSettings, config)
    table = settings.table()
    device = pick_device(settings.device, int(os.environ.get("LOCAL_RANK", "0")))
    set_precision("fp32", device)
    with join_mesh(table.towers, device, settings.parallel.timeout) as mesh, Display(mesh.rank) as display:
        torch.manual_seed(0)
        images = torch.randn(settings.batch_size, 3, table.input_size, table.input_size, device=device) * 50
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(table.classes, (settings.batch_size,), device=device)

        native = load_kernels("auto", device, display.say)
        ours = Net(table, Share(mesh.share, mesh.layout.shares), mesh.crossing, native).to(device)
        rivals = all_rivals(table, ours, images, labels, mesh, native, settings.rivals_keep_memory)
        turns = {}
        for name, rival in rivals.items():
            display.say(f"warming up: {name}")
            measure(rival, mesh, 2, settings.batch_size)
            turns[name] = lambda rival=rival: measure(rival, mesh, settings.steps, settings.batch_size)
        rates = take_turns(turns, settings.rounds, lambda done, total: display.show("measuring", done, total))

        measure(rivals[OURS], mesh, 1, settings.batch_size)
        figures: dict[str, Any] = {
            "images_per_second": rates,
            "crossing": crossing_times(rivals, mesh, settings.rounds * settings.steps),
            "layers": time_by_layer(ours, rivals[OURS].step),
            "peak_memory_bytes": peak_memory(device),
            "gflop_per_second": {name: median(own) * table.training_flops / 1e9 for name, own in rates.items()},
        }
        if mesh.rank == 0:
            display.console.print(rates_table(table, rates))
            display.console.print(layers_table(figures["layers"]))
            display.say(summary(rates, figures))
            write(new_file(settings.output, "step"), {"bench": "step", "machine": machine(), "settings": config, **figures})


# --------------------------------------------------------------------------------------------------------------- the rivals


def all_rivals(
    table: Table, ours: Net, images: torch.Tensor, labels: torch.Tensor, mesh: Mesh, native: bool, keep_memory: bool
) -> dict[str, Rival]:
    """The rivals by name, the same in every process."""
    several = mesh.layout.processes > 1
    step = step_of_share(ours, images, labels, mesh, native)
    bf16 = Net(table, ours.share, mesh.crossing, native).to(images.device)
    rivals = {
        OURS: Rival(step, everyone=True),
        OURS_BF16: Rival(step_of_share(bf16, images, labels, mesh, native, "bf16"), everyone=True),
        PRODUCTS: Rival(products(table, len(images), mesh, torch.float32), everyone=True),
        PRODUCTS_BF16: Rival(products(table, len(images), mesh, torch.bfloat16), everyone=True),
        EAGER: Rival(step_of_plain(channels_last(plain_net(table, torch_norm)), images, labels), False, keep_memory),
        COMPILED: Rival(
            step_of_plain(compiled(channels_last(plain_net(table, shifted_sums_norm))), images, labels), False, keep_memory
        ),
    }
    if several:
        alone = dist.new_subgroups_by_enumeration([[rank] for rank in range(mesh.layout.processes)])[0]
        assert isinstance(alone, dist.ProcessGroup)
        whole = Net(table, WHOLE, native=native).to(images.device)
        rivals[OURS_WAITING] = Rival(waiting(step, mesh.crossing), everyone=True)
        rivals[OURS_ONE] = Rival(step_of_share(whole, images, labels, mesh, native, group=alone), everyone=False)
        part = slice(mesh.rank * len(images) // mesh.layout.processes, (mesh.rank + 1) * len(images) // mesh.layout.processes)
        for name, net in ((PARALLEL, plain_net(table, torch_norm)), (PARALLEL_COMPILED, plain_net(table, shifted_sums_norm))):
            # Not channels last: DDP's buckets would have to lay each gradient out anew.
            wrapped: nn.Module = DistributedDataParallel(net.to(images.device), gradient_as_bucket_view=True)
            wrapped = compiled(wrapped) if name == PARALLEL_COMPILED else wrapped
            rivals[name] = Rival(step_of_plain(wrapped, images[part], labels[part]), True, keep_memory)
    return rivals


def channels_last(net: nn.Module) -> nn.Module:
    """The parameters as the images lie."""
    return net.to(memory_format=torch.channels_last)


def compiled(net: nn.Module) -> nn.Module:
    """torch.compile with its own defaults."""
    return cast(nn.Module, torch.compile(net))


def step_of_share(
    net: Net,
    images: torch.Tensor,
    labels: torch.Tensor,
    mesh: Mesh,
    native: bool,
    precision: str = "fp32",
    group: dist.ProcessGroup | None = None,
) -> Callable[[], None]:
    """A training step of this package's net; `group` are the holders of its shares, the mesh's towers where none is given."""
    net.initialise(0)
    optimizer = build_optimizer(net, UPDATE, copies=narrow_copies(net, precision, mesh, native), native=native)
    group, device = group or mesh.tower_group, images.device

    def step() -> None:
        autocast = set_precision(precision, device)
        with autocast():
            logits = net(images, DropoutKey(0, 0, 0))
        loss, _ = split_cross_entropy(logits, labels, group, native)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def waiting(step: Callable[[], None], crossing: Crossing) -> Callable[[], None]:
    """The same step, with nothing computed while maps travel."""

    def wait() -> None:
        crossing.overlap = False
        step()
        crossing.overlap = True

    return wait


def step_of_plain(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """A training step of a plain net with torch's fused SGD."""
    net = net.to(images.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9, weight_decay=0.0005, fused=True)

    def step() -> None:
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def products(table: Table, batch: int, mesh: Mesh, dtype: torch.dtype) -> Callable[[], None]:
    """This process's convolutions and matrix products of a step, forward and both backward, and nothing else: the limit.

    What a layer reads has to be there: its values are random, and the image needs no gradient.
    """
    held = table.towers // mesh.layout.shares
    work = []
    for layer in table.layers:
        shape = layer.weight_shape
        weight = torch.randn(layer.filters // table.towers, *shape[1:], device=mesh.device, dtype=dtype, requires_grad=True)
        spatial = () if layer.kind == "fc" else (layer.in_size, layer.in_size)
        x = torch.randn(batch, shape[1], *spatial, device=mesh.device, dtype=dtype)
        if layer.kind == "conv":
            x = x.contiguous(memory_format=torch.channels_last)
        work.append((layer, x.requires_grad_(layer.reads != "image"), weight))

    def step() -> None:
        for _ in range(held):
            for layer, x, weight in work:
                is_conv = layer.kind == "conv"
                made = F.conv2d(x, weight, None, layer.stride, layer.pad) if is_conv else F.linear(x, weight)
                made.backward(made.detach())
                x.grad = weight.grad = None

    return step


def measure(rival: Rival, mesh: Mesh, steps: int, batch: int) -> float:
    """Images a second over so many steps, after one that is not counted, from when all are ready to when all are done."""
    torch.set_num_threads(share_cores(mesh.layout.processes if rival.everyone else 1))
    if mesh.device.type == "cpu":
        keep_freed_memory(rival.keeps_memory)
    if rival.everyone or mesh.rank == 0:
        rival.step()
    dist.barrier(group=mesh.host_group)
    begun = time.perf_counter()
    if rival.everyone or mesh.rank == 0:
        for _ in range(steps):
            rival.step()
        if mesh.device.type == "cuda":
            torch.cuda.synchronize(mesh.device)
    dist.barrier(group=mesh.host_group)
    return batch * steps / (time.perf_counter() - begun)


# ----------------------------------------------------------------------------------------------------- where the time goes


def crossing_times(rivals: dict[str, Rival], mesh: Mesh, steps: int) -> dict[str, float]:
    """Of the first process, a step's medians: bytes that it sends, seconds of a step, seconds that it stands waiting for
    messages, and those that it would stand if it computed nothing meanwhile."""
    times = []
    for step in (rivals[OURS].step, waiting(rivals[OURS].step, mesh.crossing)):
        rows = []
        for _ in range(steps):
            dist.barrier(group=mesh.host_group)
            mesh.crossing.read()
            begun = time.perf_counter()
            step()
            rows.append((time.perf_counter() - begun, *mesh.crossing.read()))
        times.append([median(column) for column in zip(*rows, strict=True)])
    (seconds, sent, exposed), (_, _, unhidden) = times
    return {"bytes_a_step": sent, "step_seconds": seconds, "exposed_seconds": exposed, "waiting_seconds": unhidden}


def time_by_layer(net: Net, step: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Seconds of one step in each layer, forward and backward, with the crossing before it; on a CPU, where work is in order."""
    if next(net.parameters()).is_cuda:
        return {}
    stamps: list[tuple[str, float]] = []
    handles = []
    for name, layer in net.named_children():
        assert isinstance(layer, TowerLayer)

        def stamp(_module: nn.Module, _read: Any, made: list[torch.Tensor], name: str = name) -> None:
            stamps.append((name, time.perf_counter()))
            made[0].register_hook(lambda _gradient: stamps.append((name, time.perf_counter())))

        handles.append(layer.register_forward_hook(stamp))
    begun = time.perf_counter()
    step()
    ended = time.perf_counter()
    for handle in handles:
        handle.remove()
    count = len(handles)
    times = {}
    for position, (name, at) in enumerate(stamps[:count]):
        before = stamps[position - 1][1] if position else begun
        # Backward a layer's stamp is when its gradient arrives, so its work ends where the next one's begins.
        back = 2 * count - 1 - position
        after = stamps[back + 1][1] if back + 1 < 2 * count else ended
        times[name] = {"forward": at - before, "backward": after - stamps[back][1]}
    return times


def peak_memory(device: torch.device) -> int:
    """What torch has held on the GPU at most, or this process's resident set now, in bytes; of all rivals together."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


# ------------------------------------------------------------------------------------------------------ what a person sees


def rates_table(table: Table, rates: dict[str, list[float]]) -> RichTable:
    shown = RichTable(title=f"{table.name}, training steps", box=box.SIMPLE)
    shown.add_column("rival", no_wrap=True)
    for heading in ("images/s", "GFLOP/s", "this trainer / rival"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, own in rates.items():
        gflops = median(own) * table.training_flops / 1e9
        shown.add_row(name, f"{median(own):.1f}", f"{gflops:.0f}", f"{ratio(rates, OURS, name):.2f}")
    return shown


def layers_table(layers: dict[str, dict[str, float]]) -> RichTable:
    shown = RichTable(title="where the first process's step goes (the last layer of a step has the update too)", box=box.SIMPLE)
    for heading in ("layer", "forward, ms", "backward, ms"):
        shown.add_column(heading, justify="left" if heading == "layer" else "right")
    for name, times in layers.items():
        shown.add_row(name, f"{times['forward'] * 1e3:.0f}", f"{times['backward'] * 1e3:.0f}")
    return shown


def summary(rates: dict[str, list[float]], figures: dict[str, Any]) -> str:
    crossing = figures["crossing"]
    return (
        f"{ratio(rates, OURS, PRODUCTS):.0%} of the rate of the products alone; bf16 is {ratio(rates, OURS_BF16, OURS):.2f} "
        f"times fp32; {crossing['bytes_a_step'] / 1e6:.1f} MB cross a step, for which a process stands "
        f"{crossing['exposed_seconds'] / crossing['step_seconds']:.1%} of its time "
        f"({crossing['waiting_seconds'] / crossing['step_seconds']:.1%} if it computed nothing meanwhile)"
    )


def plan(config: dict[str, Any], job: int | None) -> tuple[int, dict[str, Any]]:
    """Check everything before a process is started; how many to start, and the configuration for them."""
    settings = check(BenchStepSettings, config)
    table = settings.table()
    gpus = torch.cuda.device_count() if settings.device != "cpu" else 0
    wanted = settings.parallel.processes
    processes = min(table.towers, gpus or table.towers) if isinstance(wanted, str) else wanted
    layout = plan_layout(processes, table.towers)
    pick_device(settings.device, processes - 1)
    if layout.replicas > 1:
        raise UserError(f"parallel.processes={processes} makes replicas, where one is measured: take {table.towers} or fewer")
    if settings.batch_size % processes:
        raise UserError(f"batch_size={settings.batch_size} cannot be shared by {processes} processes: take a multiple of it")
    if settings.output is not None and os.path.exists(settings.output):
        raise UserError(f"output={settings.output} is there already: name another file")
    return processes, config


def main() -> None:
    distributed_command("alexnet_dist.bench.step", "bench_step", plan)


if __name__ == "__main__":
    main()
