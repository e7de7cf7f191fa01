"""A step over buffers that stay, and when it is replayed: with stand-ins for CUDA's graphs, of which there are none here."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from alexnet_dist.bench.slices import new_net, random_batch
from alexnet_dist.data.views import Preprocess
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.settings import TrainerSettings
from alexnet_dist.training.captured import Captured
from alexnet_dist.training.step import Step

CPU = torch.device("cpu")
TINY = build_table(compose("train", [])["model"])


class Graphs:
    """Stands in for torch.cuda's graphs: notes captures and replays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.captures, self.replays, self._fails = 0, 0, fails
        self.modes: set[str] = set()
        self.capturing = False
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        self.pool, self.stream, self.left = object(), object(), []  # type: ignore[var-annotated]
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: self.pool)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.stream)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "set_stream", self.left.append)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda device, pool: self.left.append(pool), raising=False)

    @contextmanager
    def graph(self, graph: "Graphs", pool: object, capture_error_mode: str) -> Iterator[None]:
        assert pool is self.pool
        self.captures += 1
        self.modes.add(capture_error_mode)
        if self._fails:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False

    def replay(self) -> None:
        self.replays += 1


def counting(calls: list[Any], warnings: list[str]) -> Captured:
    def step(x: torch.Tensor, number: torch.Tensor, kind: object) -> tuple[torch.Tensor, ...]:
        calls.append((x.data_ptr(), number.data_ptr(), kind))
        return x * 2, number + 1

    captured = Captured(step, CPU, graph=True, prepare=lambda: None, warn=warnings.append)
    captured._wanted = True  # as on a GPU
    return captured


def test_on_a_cpu_every_call_runs_over_the_same_buffers() -> None:
    calls: list[Any] = []
    step = counting(calls, [])
    step._wanted = False
    for number in range(6):
        given = torch.full((3,), float(number))
        doubled, following = step(given, number, kind="a")
        assert torch.equal(doubled, 2 * given)
        assert following == number + 1
    assert len(calls) == 6
    assert len(set(calls)) == 1
    assert not step.replayed


def test_a_step_is_captured_after_three_calls_and_anew_for_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, calls, warnings = Graphs(monkeypatch), [], []  # type: ignore[var-annotated]
    step = counting(calls, warnings)

    def replayed(kind: str, eagerly: bool = False) -> bool:
        step(torch.ones(3), 1, kind=kind, eagerly=eagerly)
        return step.replayed

    assert [replayed("a") for _ in range(6)] == [False] * 3 + [True] * 3
    assert (graphs.captures, graphs.replays, len(calls)) == (1, 3, 4)
    assert not replayed("a", eagerly=True)  # somebody watches
    assert replayed("a")
    assert [replayed("b") for _ in range(4)] == [False] * 3 + [True]
    assert graphs.captures == 2
    assert graphs.modes == {"thread_local"}
    assert not warnings
    assert not graphs.left
    step.release()
    assert step._graph is None


def test_where_it_cannot_be_captured_it_runs_eagerly_and_says_why_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, calls, warnings = Graphs(monkeypatch, fails=True), [], []  # type: ignore[var-annotated]
    step = counting(calls, warnings)
    for _ in range(8):
        step(torch.ones(3), 1, kind="a")
    assert (graphs.captures, graphs.replays, len(calls)) == (1, 0, 8)
    assert graphs.left == [graphs.stream, graphs.pool], "neither the stream nor the memory of the capture stays in use"
    (warning,) = warnings
    assert warning.endswith("(operation not permitted when stream is capturing): it runs eagerly")


def test_after_a_capture_that_failed_in_the_middle_steps_are_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for fails in (True, False):
        graphs, said = Graphs(monkeypatch), []  # type: ignore[var-annotated]
        with join_mesh(2, CPU, timeout=60) as mesh:
            net, optimizer = new_net(TINY, mesh, native=False)
            trainer = TrainerSettings(1, None, 8, 1, 1, "stop", "off", "auto", False, None, slices=2)
            step = Step(net, Preprocess(88, 56, "aligned"), optimizer, mesh, trainer, 0, nullcontext, said.append)
            step._captured._wanted = fails  # as on a GPU
            update = optimizer.step

            def not_captured(good: torch.Tensor, graphs: Graphs = graphs, update: Any = update) -> None:
                if graphs.capturing:
                    raise RuntimeError("what is left of the stand-in's step: its gradients")
                update(good)

            monkeypatch.setattr(optimizer, "step", not_captured)
            for number in range(6):
                step.take(random_batch(TINY, 8, CPU), number, colour=True)
            ends.append([parameter.detach().clone() for parameter in net.parameters()])
        assert (graphs.captures, len(said)) == (fails, fails)
    for one, other in zip(*ends, strict=True):
        assert torch.equal(one, other)
