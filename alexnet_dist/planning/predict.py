"""How long a training step takes on a machine, for a layout of replicas and towers.

A step is followed layer by layer through one process; all others do the same at the same time. Its seconds:

    product      max(FLOP / rate of its kind, bytes moved / streaming, launch): forward, weights' gradient, inputs' gradient
    operations   max(bytes moved / operations, launches): norms, pools, activations, forward and backward
    update       5 passes over the parameters held, fp32, / streaming
    crossing     latency + (processes of the replica - 1) x bytes / bandwidth: before a layer that reads all towers, and back;
                 for a norm that does, always waited for
    gradients    of a layer, over n replicas: 2 ceil(log2 n) latency + 2 (n - 1) / n x bytes / bandwidth: the bytes of a ring,
                 the latency of a tree; where n is no power of two, that of the largest one in it and 2 x bytes / bandwidth
    slices       all of this but the update once for each slice that a replica computes, the gradients' exchange in the last one;
                 3 passes over the gradients for each sum of two slices
    loss         two exchanges over the replica's processes, of a few numbers an image

`wait`: a process stands still while maps cross. `split`: forward it begins with the part of the product that reads its own maps
while the others' travel; backward it computes the gradient that must travel first, and the rest meanwhile. Either way gradients
are averaged while the backward pass goes on, later by what crosses on the same link.
"""

from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

from alexnet_dist.errors import UserError
from alexnet_dist.model.cost import Cost, costs
from alexnet_dist.model.table import Table
from alexnet_dist.parallel.mesh import Layout
from alexnet_dist.planning.machine import Link, Machine

Overlap = Literal["wait", "split"]
FP32 = 4  # bytes of a parameter, its gradient and its velocity
_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}  # of a value


@dataclass(frozen=True)
class Job:
    """What is to be trained: images of a step over all replicas; bytes of a value in maps, and of one that crosses; the slices
    that a step is computed in."""

    table: Table
    batch: int
    map_bytes: int
    wire_bytes: int
    slices: int = 1

    @classmethod
    def of(cls, table: Table, batch: int, precision: str, wire: str, slices: int = 1) -> "Job":
        """Of the settings `precision` (fp32, tf32, bf16) and `parallel.wire` (auto: as the maps are, fp32, bf16)."""
        maps = _BYTES[precision]
        return cls(table, batch, maps, maps if wire == "auto" else _BYTES[wire], slices)

    def slices_of(self, replicas: int) -> int:
        """How many a replica computes."""
        return ceil(self.slices / replicas)


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step and of its parts; what is exposed is not hidden behind arithmetic. Bytes are those of a process: what
    it sends in crossings a step, what it holds of gradients, and the memory that it needs at least."""

    layout: Layout
    overlap: Overlap
    step: float
    arithmetic: float
    exposed_crossings: float
    exposed_gradients: float
    crossing_bytes: float
    gradient_bytes: float
    memory: float
    fits: bool
    startable: bool


def predict_all(job: Job, machine: Machine) -> list[Prediction]:
    """Every layout on the machine, waiting and splitting where there is something to split; the fewest processes first.

    Raises:
        UserError: no layout fits the machine and the batch.
    """
    predictions = [
        predict(job, machine, layout, overlap)
        for layout in layouts(job, machine)
        for overlap in (("wait", "split") if layout.shares > 1 else ("wait",))
    ]
    if not any(prediction.fits for prediction in predictions):
        raise UserError(
            f"no layout of {job.table.name} with batch_size={job.batch} fits the memory of a device of {machine.name}: "
            "take a smaller batch_size"
        )
    return predictions


def layouts(job: Job, machine: Machine) -> list[Layout]:
    """Shares that divide the towers; replicas in powers of two and as many as the devices allow; processes that divide the
    batch, and slices a replica's part of it, with the processes of a replica on one node or filling several."""
    found = []
    for shares in (count for count in range(1, job.table.towers + 1) if job.table.towers % count == 0):
        most = machine.nodes * machine.devices // shares
        for replicas in sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | ({most} - {0})):
            layout = Layout(replicas, shares)
            together = machine.devices % shares == 0 or shares % machine.devices == 0 or layout.processes <= machine.devices
            parts = replicas * job.slices_of(replicas)
            if together and job.batch % layout.processes == 0 and job.batch % parts == 0:
                found.append(layout)
    return sorted(found, key=lambda layout: (layout.processes, layout.shares))


def predict(job: Job, machine: Machine, layout: Layout, overlap: Overlap) -> Prediction:
    """One layout's step."""
    walk = _Walk(job, machine, layout, overlap)
    layers = costs(job.table)
    slices = job.slices_of(layout.replicas)
    for number in range(1, slices + 1):
        for cost in layers:
            walk.forward(cost)
        walk.loss()
        for cost in reversed(layers):
            walk.backward(cost, last=number == slices)
    walk.now += (slices - 1) * 3 * FP32 * job.table.parameters / layout.shares / machine.streaming
    walk.update()
    gradient_bytes = FP32 * job.table.parameters / layout.shares
    memory = _memory(job, layers, layout)
    kept = layout.replicas == 1 or layout.shares == job.table.towers  # the trainer keeps a tower in each of enough processes
    return Prediction(
        layout=layout,
        overlap=overlap,
        step=walk.now,
        arithmetic=walk.now - walk.exposed_crossings - walk.exposed_gradients,
        exposed_crossings=walk.exposed_crossings,
        exposed_gradients=walk.exposed_gradients,
        crossing_bytes=walk.crossed,
        gradient_bytes=gradient_bytes,
        memory=memory,
        fits=machine.memory is None or memory <= machine.memory,
        startable=kept and (machine.devices == 1 or layout.shares <= machine.devices),
    )


class _Walk:
    """A process on its way through a step: `now` is its clock, `_averaged` when the gradients under way are averaged."""

    def __init__(self, job: Job, machine: Machine, layout: Layout, overlap: Overlap) -> None:
        self._job, self._machine, self._shares, self._replicas = job, machine, layout.shares, layout.replicas
        self._split = overlap == "split"
        self._held = job.table.towers // layout.shares
        self._images = job.batch / layout.replicas / job.slices_of(layout.replicas)
        self._crossing = _crossing_link(machine, layout)
        self._averaging = _averaging_link(machine, layout)
        self._same_link = layout.processes <= machine.devices or layout.shares > machine.devices
        self.now = self._averaged = 0.0
        self.exposed_crossings = self.exposed_gradients = self.crossed = 0.0

    def forward(self, cost: Cost) -> None:
        product = self._product(cost)
        if cost.layer.crossing:
            self._stall(self._cross(cost.layer.crossing) - (product / self._shares if self._split else 0.0))
        self.now += product + self._operations(cost, cost.operations_forward)
        if cost.layer.edges:
            self._stall(self._cross(cost.layer.edges))

    def backward(self, cost: Cost, last: bool) -> None:
        self.now += self._operations(cost, cost.operations_backward)
        if cost.layer.edges:
            self._stall(self._cross(cost.layer.edges))
        product = self._product(cost)
        for_inputs = product if cost.input_gradient else 0.0
        begun = self.now
        self.now += product + for_inputs
        ready = self.now
        if cost.layer.crossing:
            seconds = self._cross(cost.layer.crossing)
            self._stall(seconds - (product + for_inputs / self._shares if self._split else 0.0))
            if self._same_link and self._averaged > begun:
                self._averaged += seconds
        if self._averaging is not None and last:
            size = FP32 * cost.layer.parameters / self._shares
            hops = 2 * ceil(log2(self._replicas))
            whole = 1 << self._replicas.bit_length() - 1  # what the others have goes to the first ones as a whole, and back
            part = 2 * (whole - 1) / whole + (2 if whole < self._replicas else 0)
            seconds = hops * self._averaging.latency + part * size / self._averaging.bandwidth
            self._averaged = max(self._averaged, ready) + seconds

    def loss(self) -> None:
        if self._crossing is not None:
            self._stall(2 * 2 * ceil(log2(self._shares)) * self._crossing.seconds(FP32 * self._images))

    def update(self) -> None:
        self.exposed_gradients = max(0.0, self._averaged - self.now)
        self.now += self.exposed_gradients + update_seconds(self._job.table, self._shares, self._machine.streaming)

    def _stall(self, seconds: float) -> None:
        """Stand still while something crosses that is not hidden (or not at all, for none or less)."""
        self.exposed_crossings += max(0.0, seconds)
        self.now += max(0.0, seconds)

    def _cross(self, values: int) -> float:
        """Seconds of a crossing, in one direction, of so many values an image and tower; its bytes are counted."""
        if self._crossing is None:
            return 0.0
        size = (self._shares - 1) * self._held * values * self._images * self._job.wire_bytes
        self.crossed += size
        return self._crossing.seconds(size)

    def _product(self, cost: Cost) -> float:
        """Seconds of a layer's product forward; each of its two gradients takes as many."""
        rate = self._machine.conv if cost.layer.kind == "conv" else self._machine.fc
        moved = self._job.map_bytes * (cost.layer.parameters + cost.product * self._images) / self._shares
        arithmetic = cost.flops * self._images / self._shares / rate
        return max(arithmetic, moved / self._machine.streaming, self._held * self._machine.launch)

    def _operations(self, cost: Cost, values: int) -> float:
        moved = self._job.map_bytes * values * self._images / self._shares
        return max(moved / self._machine.operations, self._held * len(cost.layer.then) * self._machine.launch)


def update_seconds(table: Table, shares: int, streaming: float) -> float:
    """Weights, gradients and velocities are read, weights and velocities written."""
    return 5 * FP32 * table.parameters / shares / streaming


def _crossing_link(machine: Machine, layout: Layout) -> Link | None:
    """What the processes of a replica cross on; None where one process is a replica. A node's network serves its devices."""
    if layout.shares == 1:
        return None
    if layout.shares <= machine.devices:
        assert machine.link is not None
        return machine.link
    assert machine.network is not None
    return Link(machine.network.latency, machine.network.bandwidth / machine.devices)


def _averaging_link(machine: Machine, layout: Layout) -> Link | None:
    """What a ring over the replicas meets: the slower of link and network, the latter shared with the rings of other towers."""
    if layout.replicas == 1:
        return None
    if layout.processes <= machine.devices:
        assert machine.link is not None
        return machine.link
    assert machine.network is not None
    bandwidth = machine.network.bandwidth / min(layout.shares, machine.devices)
    if machine.link is not None and machine.devices > layout.shares:
        bandwidth = min(bandwidth, machine.link.bandwidth)
    return Link(machine.network.latency, bandwidth)


def _memory(job: Job, layers: list[Cost], layout: Layout) -> float:
    """Bytes of weights and velocities, and of the gradients of the slices that are not yet added; of a slice's images and of what
    waits for its backward pass; of the largest map's gradient twice, on its way through an operation. What libraries take beside
    is not in it."""
    kept = sum(cost.kept + cost.joined for cost in layers) / layout.shares
    passing = 2 * max(cost.layer.filters * cost.layer.conv_size**2 for cost in layers) / layout.shares
    images = FP32 * 3 * job.table.input_size**2
    of_an_image = job.map_bytes * (kept + passing) + images
    slices = job.slices_of(layout.replicas)
    copies = 3 + log2(slices)
    return copies * FP32 * job.table.parameters / layout.shares + of_an_image * job.batch / layout.replicas / slices
