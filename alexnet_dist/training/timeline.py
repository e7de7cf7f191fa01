"""The parts of a step by name (layers forward and backward, messages, waiting, update), and when they began and ended."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from alexnet_dist.model.layers import TowerLayer
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.parallel.process import boot_id

# Spans that are no layer's, by name: messages begin (an instant), the computation stands waiting for them, the update.
SEND, WAITING, UPDATE = "send", "waiting", "update"


@contextmanager
def named_parts(net: Net, mesh: Mesh, begin: Callable[[str], None], end: Callable[[], None]) -> Iterator[None]:
    """Within it the parts of a step are told to `begin` and `end`, each inside the one that began before it and has not ended.

    They are "<layer> forward", "<layer> backward", and within those SEND and WAITING; then UPDATE. The first layer's backward
    part lasts until the update, and holds the replicas' sums.
    """
    open_backward: list[str] = []

    def end_backward() -> None:
        while open_backward:
            open_backward.pop()
            end()

    def gradient_at(name: str) -> Callable[[torch.Tensor], None]:
        def hook(_: torch.Tensor) -> None:
            if open_backward != [name]:  # of several towers held here the first to come
                end_backward()
                open_backward.append(name)
                begin(f"{name} backward")

        return hook

    def forward_ends(layer: TowerLayer, _: Any, outputs: list[torch.Tensor]) -> None:
        end()
        for output in outputs:
            if output.requires_grad:
                whole = output._base  # the next layer may take all towers' in one
                made = whole if whole is not None and whole.requires_grad else output
                made.register_hook(gradient_at(layer.layer.name))

    unwatched = mesh.crossing.watch

    def crossing(what: str) -> None:
        unwatched(what)  # of others who watch the same step
        if what != "arrived":
            begin(SEND if what == "send" else WAITING)
        if what != "wait":
            end()

    def update(*_: Any) -> None:
        end_backward()
        begin(UPDATE)

    hooks: list[Any] = [register_optimizer_step_pre_hook(update), register_optimizer_step_post_hook(lambda *_: end())]
    for name, layer in net.named_children():
        hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: begin(f"{name} forward")))
        hooks.append(layer.register_forward_hook(forward_ends))
    mesh.crossing.watch = crossing
    try:
        yield
    finally:
        mesh.crossing.watch = unwatched
        end_backward()
        for hook in hooks:
            hook.remove()


class Timeline:
    """The spans of one step on this process and, once gathered, on all of them."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._on_gpu = mesh.device.type == "cuda"
        self._open: list[int] = []
        self._spans: list[tuple[str, list[Any]]] = []

    @contextmanager
    def watching(self, net: Net) -> Iterator[None]:
        """Within it one step is taken, by all processes at once."""
        dist.barrier(group=self._mesh.host_group)
        self._spans, self._seconds = [], 0.0
        if self._on_gpu:
            torch.cuda.synchronize(self._mesh.device)
        self._zero, self._begun = self._stamp(), time.perf_counter()
        with named_parts(net, self._mesh, self._begin, self._end):
            yield
        self._last = self._stamp()

    def read(self) -> dict[str, Any]:
        """What the processes of the first replica did, the same on every rank; all take part.

        `seconds` the step took, and `towers` has for each process its spans in the order in which they began:
        [name, first second, last second], counted from when the first process began; of processes on several machines, whose
        clocks cannot be compared, each from when itself began: they all leave one barrier.
        """
        if self._on_gpu:
            torch.cuda.synchronize(self._mesh.device)
        spans = [[name, *map(self._after, stamps)] for name, stamps in self._spans]
        own = boot_id(), self._begun, self._after(self._last), spans
        clocks, begun, lasts, told = zip(*self._mesh.from_everyone(own)[: self._mesh.layout.shares], strict=True)
        later = [at - min(begun) if len(set(clocks)) == 1 else 0.0 for at in begun]
        towers = [[[name, *(at + by for at in ends)] for name, *ends in spans] for by, spans in zip(later, told, strict=True)]
        return {"seconds": max(by + last for by, last in zip(later, lasts, strict=True)), "towers": towers}

    def _begin(self, name: str) -> None:
        self._open.append(len(self._spans))
        self._spans.append((name, [self._stamp()]))

    def _end(self) -> None:
        self._spans[self._open.pop()][1].append(self._stamp())

    def _stamp(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _after(self, stamp: Any) -> float:
        """Seconds from when this process began."""
        return float(self._zero.elapsed_time(stamp) / 1000) if self._on_gpu else float(stamp - self._zero)


def seconds_by_layer(timeline: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of the first process: seconds of the step in each layer, forward and backward, with the crossing before it."""
    layers: dict[str, dict[str, float]] = {}
    for name, begin, end in timeline["towers"][0]:
        layer, _, way = name.partition(" ")
        if way:
            layers.setdefault(layer, {})[way] = end - begin
    return layers
