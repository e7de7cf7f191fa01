"""How long training takes on a machine, for every layout: python -m alexnet_dist.plan batch_size=128 machine=gtx580"""

import json
import pickle
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.table import Table as RichTable

from alexnet_dist import text
from alexnet_dist.errors import UserError
from alexnet_dist.fields import Positive, PowerOfTwo, check, strict
from alexnet_dist.launching.commands import command, worker
from alexnet_dist.launching.processes import start_processes
from alexnet_dist.model.table import Table, build_table
from alexnet_dist.parallel.mesh import Layout, default_processes
from alexnet_dist.parallel.process import pick_device
from alexnet_dist.planning.machine import DescribedSettings, HereSettings, Machine, described, slowed
from alexnet_dist.planning.predict import Job, Prediction, predict_all
from alexnet_dist.settings import ParallelSettings, PrecisionSettings
from alexnet_dist.text import duration

_WIDTH = 132  # of the table: a narrow terminal may fold its lines, but no figure is cut


@dataclass(frozen=True, config=strict)
class PlanSettings:
    """conf/plan.yaml, checked; `machine` is checked as the kind that it says it is."""

    model: dict[str, Any]
    machine: dict[str, Any]
    parallel: ParallelSettings
    batch_size: Positive
    slices: PowerOfTwo
    precision: PrecisionSettings
    epochs: Positive
    images: Positive
    device: Literal["auto", "cpu", "cuda"]
    native: Literal["auto", "on", "off"]
    format: Literal["table", "json"]


def run(config: dict[str, Any]) -> None:
    """Describe or probe the machine, predict every layout on it, and print a table or one JSON object."""
    settings = check(PlanSettings, config)
    if settings.images < settings.batch_size:
        raise UserError(f"images={settings.images} are fewer than batch_size={settings.batch_size}: take a smaller batch")
    if settings.batch_size % settings.slices:
        raise UserError(f"batch_size={settings.batch_size} cannot be cut into slices={settings.slices}: take fewer slices")
    table = build_table(settings.model)
    machine = find_machine(settings, table)
    job = Job.of(table, settings.batch_size, settings.precision.kind, settings.parallel.wire, settings.slices)
    predictions = predict_all(job, machine)
    steps = settings.epochs * settings.images / settings.batch_size
    if settings.format == "json":
        print(json.dumps(as_json(machine, predictions, steps, config), indent=2))
        return
    console = Console(width=max(Console().width, _WIDTH), highlight=False)
    console.print(machine_line(machine), markup=False)
    console.print(layouts_table(table, settings, predictions, steps))
    for line in advice(machine, predictions, settings, steps):
        console.print(line, markup=False, soft_wrap=True)


def find_machine(settings: PlanSettings, table: Table) -> Machine:
    """The machine that the configuration describes, or this one as a probe of some seconds finds it."""
    kind = settings.machine.get("kind")
    if kind not in ("described", "here"):
        raise UserError(f"machine.kind={kind} is neither described nor here: take one of conf/machine, such as machine=gtx580")
    if kind == "described":
        return described(_check_machine(DescribedSettings, settings.machine), settings.precision.kind)
    here = _check_machine(HereSettings, settings.machine)
    processes = default_processes(table.towers, settings.device)
    pick_device(settings.device, processes - 1, settings.precision.kind)
    with tempfile.TemporaryDirectory() as folder:
        told = {
            "model": settings.model, "batch_size": settings.batch_size, "precision": settings.precision.kind,
            "device": settings.device, "native": settings.native, "rounds": here.rounds, "parallel": settings.parallel,
            "output": Path(folder) / "machine", "quiet": settings.format == "json",
        }  # fmt: skip
        if status := start_processes(worker, processes, 0, "alexnet_dist.planning.probe", told):
            sys.exit(status)
        machine = pickle.loads(told["output"].read_bytes())
    if here.link_rate is not None:
        if machine.link is None:
            raise UserError("machine.link_rate is set, and this machine's net is in one process, which has no link: leave it out")
        machine = slowed(machine, here.link_rate)
    return machine


def _check_machine(kind: Any, config: dict[str, Any]) -> Any:
    try:
        return check(kind, config)
    except UserError as error:
        raise UserError(f"machine.{error}") from None


# ------------------------------------------------------------------------------------------------------ what a person sees


def layouts_table(table: Table, settings: PlanSettings, predictions: list[Prediction], steps: float) -> RichTable:
    """A row for each layout and way of crossing."""
    title = f"{table.name}, batch {settings.batch_size}, {settings.precision.kind}; replicas x processes that hold a net"
    numbers = ("step", "images/s", "exposed: crossings", "gradients", "memory, a process", f"{settings.epochs} epochs")
    rows = []
    for prediction in predictions:
        layout = prediction.layout
        rows.append(
            (
                f"{layout.replicas} x {layout.shares}" + ("" if prediction.startable else " *"),
                prediction.overlap if layout.shares > 1 else "",
                duration(prediction.step),
                f"{settings.batch_size / prediction.step:,.0f}",
                duration(prediction.exposed_crossings) if layout.shares > 1 else "",
                duration(prediction.exposed_gradients) if layout.replicas > 1 else "",
                f"{prediction.memory / 1e9:.2f} GB" + ("" if prediction.fits else ", too much"),
                duration(prediction.step * steps) if prediction.fits else "",
            )
        )
    return text.table(title, ("layout", "crossings", *numbers), rows, numbers)


def machine_line(machine: Machine) -> str:
    """What the prediction reckons with, in a paragraph."""
    parts = [f"{machine.name}: {machine.nodes} node(s) of {machine.devices}"]
    parts.append(f"a device: {machine.conv / 1e9:,.0f} GFLOP/s in convolutions, {machine.fc / 1e9:,.0f} in matrix products")
    parts.append(f"{machine.streaming / 1e9:,.1f} GB/s in long passes, {machine.operations / 1e9:,.1f} in norms and pools")
    for name, link in (("link", machine.link), ("network", machine.network)):
        if link is not None:
            parts.append(f"{name}: {link.latency * 1e6:,.0f} us, {link.bandwidth / 1e9:,.2f} GB/s")
    return "; ".join(parts)


def advice(machine: Machine, predictions: list[Prediction], settings: PlanSettings, steps: float) -> list[str]:
    """The best layout, and how it is started; where the trainer does not start it, the best that it does."""
    lines = []
    best = min((one for one in predictions if one.fits), key=lambda one: one.step)
    lines.append(f"best: {_name(best)}, {duration(best.step)} a step, {settings.epochs} epochs in {duration(best.step * steps)}")
    if not best.startable:
        lines.append("* is not a layout of this trainer, which keeps one tower in a process where there are processes enough")
        started = [one for one in predictions if one.fits and one.startable]
        if started:
            own = min(started, key=lambda one: one.step)
            lines.append(f"best that it starts: {_name(own)}, {duration(own.step)} a step, {duration(own.step * steps)}")
            best = own
    if best.startable:
        processes = best.layout.processes
        start = f"parallel.processes={processes}"
        if processes > machine.devices:
            start = _torchrun(best.layout, machine)
        slices = "" if settings.slices == 1 else f" trainer.slices={settings.slices}"
        overlap = "" if best.layout.shares == 1 else f" parallel.overlap={'true' if best.overlap == 'split' else 'false'}"
        lines.append(f"start it with {start}, trainer.batch_size={settings.batch_size}{slices}{overlap}")
    return lines


def _torchrun(layout: Layout, machine: Machine) -> str:
    """How it is started on as few nodes as hold the same number of processes each, and replicas whole."""
    for nodes in range(-(-layout.processes // machine.devices), machine.nodes + 1):
        each = layout.processes // nodes
        if each * nodes == layout.processes and (each % layout.shares == 0 or layout.shares % each == 0):
            return f"torchrun --nnodes {nodes} --nproc-per-node {each}"
    return f"torchrun, {layout.processes} processes in all, with a --nproc-per-node of its own on each node"


def as_json(machine: Machine, predictions: list[Prediction], steps: float, config: dict[str, Any]) -> dict[str, Any]:
    """Everything predicted, in seconds and bytes."""
    rows = [{**asdict(one), "training": one.step * steps} for one in predictions]
    best = min((one for one in predictions if one.fits), key=lambda one: one.step)
    return {"machine": asdict(machine), "best": predictions.index(best), "layouts": rows, "settings": config}


def _name(prediction: Prediction) -> str:
    layout = prediction.layout
    if layout.shares == 1:
        return "one process with the whole net" if layout.replicas == 1 else f"{layout.replicas} whole nets, data parallel"
    nets = f"{layout.replicas} nets" if layout.replicas > 1 else "one net"
    return f"{nets} in {layout.shares} processes" + (" each" if layout.replicas > 1 else "") + f", crossings {prediction.overlap}"


def main() -> None:
    command("plan", run)


if __name__ == "__main__":
    main()
