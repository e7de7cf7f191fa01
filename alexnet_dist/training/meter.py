"""What a run's lines say: how fast it is (images a second, bytes crossed, time spent waiting for crossings, memory), and its
training error."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from alexnet_dist.model.table import Table
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.training.peaks import peak_of


class Meter:
    """Counts steps between two stretches; pauses (validation, checkpoints) are left out of the time."""

    def __init__(self, mesh: Mesh, batch_size: int, table: Table, precision: str) -> None:
        self._mesh = mesh
        self._table = table
        self._batch_size = batch_size
        peak = peak_of(torch.cuda.get_device_name(mesh.device), precision) if mesh.device.type == "cuda" else None
        self._peak = peak and peak * mesh.layout.processes
        self._mesh.crossing.read()
        self._steps, self._paused, self._begun = 0, 0.0, time.perf_counter()

    def step(self) -> None:
        self._steps += 1

    @contextmanager
    def pause(self, before: Callable[[], None] = lambda: None) -> Iterator[None]:
        """What happens inside is not training: neither its time nor its crossings count. What is done `before` is."""
        before()
        begun = time.perf_counter()
        held = self._mesh.crossing.read()
        yield
        self._mesh.crossing.restore(held)
        self._paused += time.perf_counter() - begun

    def stretch(self) -> "Stretch":
        """The steps since the last call, for `read`; the host waits for nothing."""
        sent, waited = self._mesh.crossing.read(wait=False)
        seconds = time.perf_counter() - self._begun - self._paused
        stretch = Stretch(max(self._steps, 1), seconds, sent, waited)
        self._steps, self._paused, self._begun = 0, 0.0, time.perf_counter()
        return stretch

    def read(self, stretch: "Stretch") -> dict[str, Any]:
        """Figures of a stretch; every rank takes part and gets the same.

        Images a second, bytes that a process sent and seconds it waited in crossings a step, seconds a step, and the peak memory
        of the largest process in bytes (of its GPU, or its resident set); FLOP a second of the net's products, and what share
        that is of the GPUs' peak (None where it is not known). Where each tower has a process of its own, `towers` holds the
        tower's own waiting (mean over replicas) and peak memory (of the replica that held most).
        """
        layout, steps = self._mesh.layout, stretch.steps
        own = torch.tensor([stretch.waited, peak_memory(self._mesh.device), stretch.seconds], dtype=torch.float64)
        everyone = own.new_empty(3 * layout.processes)
        dist.all_gather(list(everyone.chunk(layout.processes)), own, group=self._mesh.host_group)
        waits, peaks, took = everyone.view(layout.replicas, layout.shares, 3).unbind(dim=2)
        seconds = took.mean().item()  # each process has begun its stretch at a moment of its own
        images_per_second = steps * self._batch_size / seconds
        flops = images_per_second * self._table.training_flops
        figures: dict[str, Any] = {
            "images_per_second": images_per_second,
            "flops_per_second": flops,
            "peak_share": flops / self._peak if self._peak else None,
            "crossing_bytes": stretch.sent // steps,
            "crossing_exposed_seconds": waits.mean().item() / steps,
            "step_seconds": seconds / steps,
            "peak_memory_bytes": int(peaks.max()),
        }
        if layout.shares > 1 and layout.shares == self._table.towers:
            figures["towers"] = {
                "crossing_exposed_seconds": (waits.mean(dim=0) / steps).tolist(),
                "peak_memory_bytes": peaks.amax(dim=0).long().tolist(),
            }
        return figures


@dataclass(frozen=True)
class Stretch:
    """So many steps of a run, the seconds that they took, bytes sent and seconds waited in crossings by this process."""

    steps: int
    seconds: float
    sent: int
    waited: float


class ErrorCount:
    """The training error: images trained on since the last line of metrics.jsonl, and how many of them were guessed wrong, over
    all replicas.

    Each image is guessed in passing: by the parameters of its own step, before the update, with dropout and from the crop that it
    is trained on.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._group = mesh.replica_group
        self._wrong, self._images = 0, 0
        self._own_wrong = torch.zeros((), dtype=torch.int64, device=mesh.device)

    def add(self, wrong: torch.Tensor, images: int) -> None:
        """A step over `images` images of all replicas; `wrong`, an integer scalar, counts this replica's."""
        self._own_wrong += wrong
        self._images += images

    def total(self) -> tuple[int, int]:
        """Images guessed wrong and images; every rank takes part and gets the same."""
        dist.all_reduce(self._own_wrong, group=self._group)
        self._wrong += int(self._own_wrong)
        self._own_wrong.zero_()
        return self._wrong, self._images

    def restore(self, total: tuple[int, int]) -> None:
        """Go on from what `total` returned."""
        self._wrong, self._images = total
        self._own_wrong.zero_()

    def taken(self) -> tuple[torch.Tensor, int]:
        """Images guessed wrong, a scalar on the device, and images; and begin anew. Every rank takes part and gets the same."""
        dist.all_reduce(self._own_wrong, group=self._group)
        taken = self._own_wrong + self._wrong, self._images
        self.restore((0, 0))
        return taken


def peak_memory(device: torch.device) -> int:
    """Bytes this process has held at most: of its GPU's memory, as torch hands it out (without what DALI, NCCL and CUDA itself
    take), or of the machine's (resident set)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
