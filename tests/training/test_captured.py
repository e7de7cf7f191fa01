"""A step over buffers that stay, and when it is replayed: with stand-ins for CUDA's graphs, of which there are none here."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from alexnet_dist.training.captured import Captured

CPU = torch.device("cpu")


class Graphs:
    """Stands in for torch.cuda's graphs: notes captures and replays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.captures, self.replays, self._fails = 0, 0, fails
        self.modes: set[str] = set()
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)

    @contextmanager
    def graph(self, graph: "Graphs", capture_error_mode: str) -> Iterator[None]:
        self.captures += 1
        self.modes.add(capture_error_mode)
        if self._fails:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        yield

    def replay(self) -> None:
        self.replays += 1


def counting(calls: list[Any], warnings: list[str]) -> Captured:
    def step(x: torch.Tensor, number: torch.Tensor, kind: object) -> tuple[torch.Tensor, ...]:
        calls.append((x.data_ptr(), number.data_ptr(), kind))
        return x * 2, number + 1

    captured = Captured(step, CPU, graph=True, warn=warnings.append)
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


def test_where_it_cannot_be_captured_it_runs_eagerly_and_says_why_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, calls, warnings = Graphs(monkeypatch, fails=True), [], []  # type: ignore[var-annotated]
    step = counting(calls, warnings)
    for _ in range(8):
        step(torch.ones(3), 1, kind="a")
    assert (graphs.captures, graphs.replays, len(calls)) == (1, 0, 8)
    (warning,) = warnings
    assert warning.endswith("(operation not permitted when stream is capturing): it runs eagerly")
