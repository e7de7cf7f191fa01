"""What is said when a message fails, and how long the first steps may take."""

import errno
import threading
import time
from typing import Any

import pytest
import torch.distributed as dist

from alexnet_dist.errors import LOST
from alexnet_dist.parallel import peers as module
from alexnet_dist.parallel.failures import broken_connection, refusal
from alexnet_dist.parallel.peers import Peers

DUPLICATE = """NCCL error in: ProcessGroupNCCL.cpp:3690, invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.28.9
ncclInvalidUsage: This usually reflects invalid usage of NCCL library.
Last error:
Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000"""
GONE = """NCCL error in: ProcessGroupNCCL.cpp:1234, remote process exited or there was a network error, NCCL version 2.28.9
ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.
Last error:
socketProgress: Connection closed by remote peer node-2<40000>"""


def test_what_nccl_refuses_is_told_whole() -> None:
    said = refusal(dist.DistBackendError(DUPLICATE))
    assert said
    assert said.endswith("Last error: Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000")
    assert "\n" not in said


def test_a_peer_that_nccl_has_lost_is_a_broken_connection() -> None:
    error = dist.DistBackendError(GONE)
    assert refusal(error) is None
    assert broken_connection(error)


def test_a_broken_connection_is_told_whole(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SILENT_SECONDS", 0.0)
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.05)
    peers = Peers(dist.HashStore(), rank=0, world=1, timeout=1)
    peers._store = dist.HashStore()
    peers.explain(dist.DistBackendError(GONE))
    assert "Connection closed by remote peer node-2<40000>" in capfd.readouterr().err


def test_the_main_thread_may_rest_while_the_watcher_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Resting(Peers):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name == "_expected":
                self.rest()
            return value

    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.0)
    peers = Resting(dist.HashStore(), rank=0, world=1, timeout=1)
    peers._store = dist.HashStore()
    peers.progressed()
    peers._look()


def _no_descriptor_left(_pid: int) -> int:
    raise OSError(errno.EMFILE, "Too many open files")


def test_processes_that_cannot_be_watched_by_pidfd_are_watched_by_their_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "pidfd_open", _no_descriptor_left)
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.05)
    store = dist.HashStore()
    both = [Peers(store, rank, world=2, timeout=60) for rank in range(2)]
    until = time.monotonic() + 15
    while not all(len(peers._beats) == 2 for peers in both) and time.monotonic() < until:
        time.sleep(0.05)
    watched = [peers._watcher.is_alive() and len(peers._beats) == 2 for peers in both]
    for peers in reversed(both):  # the first waits for the others
        peers.leave(failed=False)
    assert watched == [True, True]


def test_a_first_step_that_hangs_is_found(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(module, "_FIRST_SECONDS", 1.0)
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(module.os, "_exit", ended.append)
    store = dist.HashStore()
    both = [Peers(store, rank, world=2, timeout=0.5) for rank in range(2)]
    both[0].progressed(0)
    until = time.monotonic() + 15
    while not ended and time.monotonic() < until:
        time.sleep(0.05)
    for peers in reversed(both):  # the first waits for the others
        peers.leave(failed=False)
    assert ended
    assert "kept the others waiting for 1 seconds; rank" in capfd.readouterr().err


def test_the_first_process_leaves_when_the_others_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_FOR_ALL", 60.0)
    store = dist.HashStore()
    first, other = (Peers(store, rank, world=2, timeout=60) for rank in range(2))
    leaving = threading.Thread(target=first.leave, args=(False,))
    leaving.start()
    leaving.join(0.5)
    waits = leaving.is_alive()
    other.leave(failed=False)
    leaving.join(5)
    assert (waits, leaving.is_alive()) == (True, False)


def test_who_has_lost_a_process_does_not_go_on_though_it_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.05)
    store = dist.HashStore()
    both = [Peers(store, rank, world=2, timeout=60) for rank in range(2)]
    both[0].progressed(7)
    both[1]._say("rank 0 has not answered for 60 seconds (parallel.timeout)")
    told = both[0]._found.wait(15)
    with pytest.raises(dist.DistError) as stopped:
        both[0].progressed(8)
    both[0].explain(stopped.value)
    for peers in reversed(both):  # the first waits for the others
        peers.leave(failed=True)
    assert told
    assert broken_connection(stopped.value)


@pytest.mark.parametrize("left", [False, True])
def test_who_is_not_heard_of_is_lost_though_no_step_is_expected(
    left: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    for name, seconds in {"_BEAT_SECONDS": 0.05, "_SILENT_SECONDS": 0.2, "_FIRST_SECONDS": 1.0, "_GRACE_SECONDS": 0.0}.items():
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setattr(module.os, "_exit", ended.append)
    monkeypatch.setattr(module.os, "pidfd_open", _no_descriptor_left)  # as it is between hosts
    store = dist.HashStore()
    first, other = (Peers(store, rank, world=2, timeout=1) for rank in range(2))
    for _ in range(3):
        first.progressed()
    first.rest()
    until = time.monotonic() + 15
    while len(first._beats) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    if left:
        other.leave(failed=False)
    else:
        other._closed.set()  # it beats no more
    first._watcher.join(3 if left else 15)
    said = capfd.readouterr().err
    if left:
        assert (ended, said) == ([], "")
    else:
        assert set(ended) == {LOST}  # (which here ends nothing, so that the thread looks once more)
        assert "rank 1 has not answered for 1 seconds (parallel.timeout); rank 0 stood" in said
        other.leave(failed=False)
    first.leave(failed=False)
