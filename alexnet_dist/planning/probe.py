"""This machine measured for a prediction, in a process for each tower: products, memory, the step beside them, the link.

All processes measure the same thing at the same time, since they share memory and caches in a step too.
"""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from alexnet_dist.model.cost import costs
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table, build_table
from alexnet_dist.parallel.mesh import Mesh, join_mesh
from alexnet_dist.parallel.process import enter_process
from alexnet_dist.planning import work
from alexnet_dist.planning.machine import Link, Machine, Precision
from alexnet_dist.planning.predict import FP32, update_seconds
from alexnet_dist.planning.work import seconds_of
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.step import WIRES, load_kernels

_STREAM_VALUES = 1 << 24  # 64 MB in fp32, twice: beyond the caches
_MESSAGE_VALUES = 1 << 21  # 8 MB
_MESSAGES = 10
_LAUNCHES = 1000


def run(config: dict[str, Any]) -> None:
    """Measure, as one process of the mesh that RANK and WORLD_SIZE name. `plan` has checked what it is told; rank 0 leaves the
    machine in the file `output`."""
    table, parallel = build_table(config["model"]), config["parallel"]
    device = enter_process(config["device"], config["precision"], table.towers, parallel.threads).device
    with join_mesh(table.towers, device, parallel.timeout, WIRES[parallel.wire], parallel.overlap) as mesh:
        with Display(mesh.rank or config["quiet"]) as display:
            native = load_kernels(config["native"], device, display.say)
            machine = measure(table, config["batch_size"], config["precision"], mesh, native, config["rounds"], display)
        if mesh.rank == 0:
            Path(config["output"]).write_bytes(pickle.dumps(machine))


def measure(
    table: Table, batch: int, precision: Precision, mesh: Mesh, native: bool, rounds: int, display: Display
) -> Machine:
    """The machine on which this mesh runs, as one node; medians of so many rounds, and of them the slowest process's."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    layers, shares = costs(table), mesh.layout.shares
    kinds = {kind: [layer for layer in table.layers if layer.kind == kind] for kind in ("conv", "fc")}
    timed: dict[str, Callable[[], object]] = {kind: work.products(own, batch, mesh, dtype) for kind, own in kinds.items()}
    timed |= {"streaming": _stream(mesh.device), "launches": _launches(mesh.device)}
    turns: dict[str, Callable[[], float]] = {name: partial(seconds_of, own, mesh) for name, own in timed.items()}
    turns["step"] = partial(_unexposed, training_step(table, batch, precision, mesh, native), mesh)
    taken = work.take_turns(turns, rounds + 1, partial(display.show, "probing this machine"))
    seconds = {name: max(mesh.from_everyone(median(own[1:]))) for name, own in taken.items()}  # the first round warms up

    flops = {kind: sum(cost.training_flops for cost in layers if cost.layer.kind == kind) for kind in ("conv", "fc")}
    rates = {kind: flops[kind] * batch / shares / seconds[kind] if flops[kind] else 1.0 for kind in flops}
    streaming = 3 * FP32 * _STREAM_VALUES / seconds["streaming"]
    moved = sum(cost.operations_forward + cost.operations_backward for cost in layers) * batch / shares * dtype.itemsize
    beside = seconds["step"] - seconds["conv"] - seconds["fc"] - update_seconds(table, shares, streaming)
    return Machine(
        name="here",
        nodes=1,
        devices=mesh.layout.processes,
        conv=rates["conv"],
        fc=rates["fc"],
        streaming=streaming,
        # No more than memory gives, should the step be no longer than its products.
        operations=min(streaming, moved / beside) if beside > 0 else streaming,
        launch=seconds["launches"] / _LAUNCHES,
        memory=torch.cuda.get_device_properties(mesh.device).total_memory if mesh.device.type == "cuda" else None,
        link=_link(mesh) if shares > 1 else None,
        network=None,
    )


def training_step(table: Table, batch: int, precision: Precision, mesh: Mesh, native: bool) -> Callable[[], None]:
    """A step of this process's share as the trainer takes it, always on the same images."""
    net = Net(table, mesh.crossing, native).to(mesh.device)
    return work.training_step(net, *work.random_batch(table, batch, mesh.device), mesh.tower_group, precision)


def _unexposed(step: Callable[[], None], mesh: Mesh) -> float:
    """Seconds of a step without those that it stands waiting for crossings."""
    mesh.crossing.read()
    whole = seconds_of(step, mesh)
    return whole - mesh.crossing.read()[1]


def _stream(device: torch.device) -> Callable[[], torch.Tensor]:
    """A pass that reads two tensors and writes one, all larger than the caches."""
    target, source = torch.zeros(_STREAM_VALUES, device=device), torch.ones(_STREAM_VALUES, device=device)
    return partial(target.add_, source)


def _launches(device: torch.device) -> Callable[[], None]:
    """Many operations on one value."""
    value = torch.zeros((), device=device)

    def work() -> None:
        for _ in range(_LAUNCHES):
            value.add_(1)

    return work


def _link(mesh: Mesh) -> Link:
    """The crossing itself, of one value and of many to every other process of the replica, all at once."""
    figures = []
    for values in (1, _MESSAGE_VALUES):
        outgoing = [torch.zeros(values, 1, device=mesh.device) for _ in range(mesh.layout.shares)]
        mesh.crossing.read()
        taken = [seconds_of(partial(_cross, mesh, outgoing), mesh) for _ in range(_MESSAGES + 1)]
        sent = mesh.crossing.read()[0] / len(taken)
        figures.append((sent, max(mesh.from_everyone(median(taken[1:])))))
    (few, least), (many, most) = figures
    return Link(latency=least, bandwidth=(many - few) / max(most - least, 1e-9))


def _cross(mesh: Mesh, outgoing: list[torch.Tensor]) -> None:
    mesh.crossing.begin(outgoing).wait()
