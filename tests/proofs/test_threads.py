"""Threads that touch a GPU: a new thread's device is the first of the machine, whatever the main thread has chosen."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from alexnet_dist.training import saving


class Recorder:
    """Stands in for torch.cuda's devices and streams, and notes on which device a stream was made and used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered: list[torch.device] = [torch.device("cuda", 0)]
        self.streams: list[tuple[torch.device, torch.device]] = []
        for name in ("device", "stream", "Stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.entered.append(device)
        yield
        self.entered.pop()

    def Stream(self, device: torch.device | None = None) -> torch.device:  # noqa: N802 - torch's name
        return device or self.entered[-1]

    @contextmanager
    def stream(self, stream: torch.device) -> Iterator[None]:
        self.streams.append((stream, self.entered[-1]))
        yield


class Copied:
    """Stands in for an event; what waits for one opens the thread's device where it is not open yet."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def synchronize(self) -> None:
        assert self.recorder.entered[-1] == torch.device("cuda", 1)


def test_the_thread_that_writes_checkpoints_enters_its_rank_s_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, own = Recorder(monkeypatch), torch.device("cuda", 1)
    copied: Any = Copied(recorder)

    def write() -> None:
        with saving._stream_of_its_own(own, copied):
            assert recorder.entered[-1] == own

    with ThreadPoolExecutor(1) as thread:
        thread.submit(write).result()
    assert recorder.streams == [(own, own)]
