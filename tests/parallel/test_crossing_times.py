"""The waiting on a GPU is measured by events, of which none may pile up; and who watches a crossing hears of its messages."""

from types import SimpleNamespace

import pytest
import torch

from alexnet_dist.parallel.mesh import join_mesh
from tests.distributed.processes import run_processes


class Event:
    """Stands in for torch.cuda.Event: what was recorded is over at once, and each has a millisecond more than the one before."""

    now = 0
    living = 0

    def __init__(self, enable_timing: bool, external: bool) -> None:
        self.external = external
        Event.living += 1

    def __del__(self) -> None:
        Event.living -= 1

    def record(self) -> None:
        Event.now += 1
        self.at = Event.now

    def query(self) -> bool:
        assert not self.external
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Event") -> float:
        return float(end.at - self.at)


def test_waiting_that_nobody_reads_keeps_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with join_mesh(1, torch.device("cpu"), timeout=60) as mesh:
        for _ in range(1000):
            mesh.crossing.wait_for([], on_cuda=True)
        assert Event.living <= 2
        assert mesh.crossing.read() == (0, pytest.approx(1.0))


def test_waiting_in_a_graph_counts_with_its_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=lambda: None))
    with join_mesh(1, torch.device("cpu"), timeout=60) as mesh:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        for _ in range(2):
            mesh.crossing.wait_for([], on_cuda=True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        assert mesh.crossing.read() == (0, 0.0)
        for _ in range(5):
            mesh.crossing.replayed()
        mesh.crossing.wait_for([], on_cuda=True)  # an eager step between
        assert mesh.crossing.read() == (0, pytest.approx(5 * 0.002 + 0.001))
        assert mesh.crossing.read() == (0, 0.0)
        mesh.crossing.replayed()
        mesh.crossing.forget_captured()  # a graph of another kind of step takes its place, with one message fewer
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        mesh.crossing.wait_for([], on_cuda=True)
        for _ in range(3):
            mesh.crossing.replayed()
        assert mesh.crossing.read() == (0, pytest.approx(0.002 + 3 * 0.001))


def _watched() -> list[str]:
    with join_mesh(2, torch.device("cpu"), timeout=60) as mesh:
        heard: list[str] = []
        mesh.crossing.watch = heard.append
        arrival = mesh.crossing.begin([torch.ones(3)] * 2)
        heard.append("computing")
        arrival.wait()
        return heard


def test_who_watches_a_crossing_hears_of_its_messages() -> None:
    for heard in run_processes(_watched, 2):
        assert heard == ["send", "computing", "wait", "arrived"]
