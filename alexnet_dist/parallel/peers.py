"""Which processes of a run are alive: a thread in each watches the others, whatever the main thread waits for.

A process that dies is seen at once by those on its machine (pidfd) and, through the store by which all met, by the others. One
that hangs is found when no step has been done for `timeout` seconds, and one that has not been heard of for as long is lost even
where no step is expected, as while all wait for a checkpoint. Either way one process says in a line who was lost, and all end
with status LOST, so that whoever started them may start them again.
"""

import datetime
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C import _distributed_c10d

from alexnet_dist.errors import LOST, tell
from alexnet_dist.files import whole_file
from alexnet_dist.parallel.failures import one_line
from alexnet_dist.parallel.process import boot_id

_BEAT_SECONDS = 0.5
_SILENT_SECONDS = 3.0
_GRACE_SECONDS = 4.0
_RECORDING_SECONDS = 3.0
_SECONDS_FOR_ALL = 5.0  # in which all have failed that fail alike
LONG = datetime.timedelta(days=30)  # for torch's own waits, which count the time of a suspended run: `Peers` ends what hangs
SETUP_SECONDS = 1800.0  # for what is no step: meeting, a mean image, a checkpoint, rank 0's report
# What each of the first two pieces may take at the most: memory is taken, connections are made, a GPU's kernels are chosen.
_FIRST_SECONDS = 300.0


class Peers:
    """The other processes of the run, as rank `rank` of `world` sees them through a connection of its own to `store`.

    When the run hangs, what torch's flight recorder has kept goes to the folder `recordings`.
    """

    def __init__(self, store: dist.Store, rank: int, world: int, timeout: float) -> None:
        self._rank, self._world, self._timeout = rank, world, timeout
        self.recordings: Path | None = None
        self._step, self._pieces = 0, 0
        self.rest()
        self._beats: dict[int, tuple[bytes, float]] = {}
        self._turned = self._woke = time.monotonic()
        self._asking: float | None = None  # since when the watcher waits for the store
        self._pidfds: dict[int, int] = {}
        self._found = threading.Event()
        self._closed = threading.Event()
        # Machines may be called alike, and where processes are numbered has the same name on each.
        self._machine = [socket.gethostname(), boot_id(), os.readlink("/proc/self/ns/pid")]
        if world == 1:
            return
        self._store = dist.PrefixStore("peers", store.clone())
        self._store.set_timeout(LONG)
        self._store.set(f"beat/{rank}", "0 0")
        self._store.set(f"who/{rank}", json.dumps([self._machine, os.getpid()]))
        self._watcher = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._watcher.start()
        threading.Thread(target=self._watch_store, name="store", daemon=True).start()

    def progressed(self, step: int | None = None) -> None:
        """A step or another piece of work is done (`step` are in all); the next is expected within the timeout.

        The first two of a process may take longer, as long as _FIRST_SECONDS.

        Raises:
            DistError: a process was lost, as has been said. This one does not go on, though the other may answer again.
        """
        if self._found.is_set():
            raise dist.DistError("a process was lost")
        self._step = self._step if step is None else step
        self._pieces += 1
        self._expected = time.monotonic(), self._patience()

    def rest(self) -> None:
        """What comes until `progressed` is called again is no step and may take half an hour, but all go on being heard of."""
        self._expected = time.monotonic(), max(self._timeout, SETUP_SECONDS)

    def _patience(self) -> float:
        """Seconds that a step may take, and that a process may be silent."""
        return self._timeout if self._pieces > 2 else max(self._timeout, _FIRST_SECONDS)

    def leave(self, failed: bool) -> None:
        """This process ends in its own way: it is not lost. Where it has `failed`, the others end too and say nothing. With rank
        0 the store may go by which the others know that: it waits for them, some seconds."""
        self._closed.set()
        if self._world > 1:
            leaving = threading.Thread(target=self._leave, args=(failed,), daemon=True)  # the store may be stopped or cut off
            leaving.start()
            # A thread that the interpreter's end finds inside the store's C++ aborts the process.
            leaving.join(2 * _SECONDS_FOR_ALL)
            self._watcher.join(2 * _BEAT_SECONDS)

    def _leave(self, failed: bool) -> None:
        with suppress(dist.DistError):  # the store has gone, and with it whoever would read this
            self._store.set(f"left/{self._rank}", "failed" if failed else "done")
            if self._rank == 0:  # (the store's own wait would write a warning where one does not come)
                others, until = [f"left/{rank}" for rank in range(self._world)], time.monotonic() + _SECONDS_FOR_ALL
                while not self._store.check(others) and time.monotonic() < until:
                    time.sleep(0.05)

    def first_to_tell(self) -> bool:
        """Whether no process has said yet why the run ends; from now on one has."""
        if self._world == 1:
            return True
        try:
            return self._store.add("told", 1) == 1
        except dist.DistError:
            return True

    def explain(self, error: Exception) -> None:
        """Say who was lost, after a connection broke with `error`, unless it is said already."""
        if not self._found.wait(_SILENT_SECONDS + 2 * _BEAT_SECONDS):
            silent = self._silent(_SILENT_SECONDS, time.monotonic())
            self._say(f"{_ranks(silent, 'was', 'were')} lost" if silent else f"a connection broke ({one_line(error)})")
        self._closed.set()

    def _watch(self) -> None:
        try:
            self._asking = time.monotonic()
            self._meet()
            while not (self._closed.is_set() or self._found.is_set()):
                self._asking = time.monotonic()
                self._beat()
                self._look()
        except dist.DistError:
            if not self._closed.is_set():
                self._end("the process through which all met was lost (rank 0 or the launcher)")

    def _watch_store(self) -> None:
        """torch's client waits without end for a store that is stopped or cut off, and the watcher with it. Once no step is done
        either, that is a loss."""
        turned = woke = time.monotonic()
        while not self._closed.wait(_BEAT_SECONDS):
            (since, within), asking, before, turned = self._expected, self._asking, turned, time.monotonic()
            woke = turned if turned - before > _SILENT_SECONDS else woke  # this process was itself held up
            if asking and turned - max(asking, since, woke, self._woke) > within + _SILENT_SECONDS:
                silent = "the process through which all met (rank 0 or the launcher) has not answered"
                tell(f"error: {silent} for {within:g} seconds; rank {self._rank} stood at step {self._step}")
                _leave_at_once()

    def _meet(self) -> None:
        others = [rank for rank in range(self._world) if rank != self._rank]
        while others and not self._closed.is_set():
            rank = others[0]
            if not self._store.check([f"who/{rank}"]):
                time.sleep(0.05)
                self._asking = time.monotonic()
                if self._asking - self._expected[0] > self._expected[1]:
                    self._end(f"rank {rank} has not come")
                continue
            others.pop(0)
            machine, pid = json.loads(self._store.get(f"who/{rank}"))
            if machine == self._machine:
                try:
                    self._pidfds[rank] = os.pidfd_open(pid)
                except ProcessLookupError:
                    self._gone(rank)
                except OSError:  # no descriptor is left, or the call is forbidden: its beats tell whether it lives
                    continue

    def _beat(self) -> None:
        self._store.set(f"beat/{self._rank}", f"{time.time()} {self._pieces}")
        beats = self._store.multi_get([f"beat/{rank}" for rank in range(self._world)])
        now = self._turn()
        for rank, beat in enumerate(beats):
            if rank not in self._beats or self._beats[rank][0] != beat:
                self._beats[rank] = beat, now
        if self._unheard(self._patience(), now):
            self._give_up_waiting(self._patience())

    def _turn(self) -> float:
        """The time. Was this process itself held up, stopped or cut off, the time of all others begins anew."""
        before, self._turned = self._turned, time.monotonic()
        if self._turned - before > _BEAT_SECONDS + self._timeout / 2:
            self._woke = self._turned
        return self._turned

    def _look(self) -> None:
        poll = select.poll()
        ranks = {pidfd: rank for rank, pidfd in self._pidfds.items()}
        for pidfd in ranks:
            poll.register(pidfd, select.POLLIN)
        self._asking = None
        ended = poll.poll(1000 * _BEAT_SECONDS)
        now = self._asking = self._turn()
        if self._closed.is_set():  # the store may be gone
            return
        for pidfd, _ in ended:
            os.close(self._pidfds.pop(ranks[pidfd]))
            self._gone(ranks[pidfd])
        if self._store.check(["hanging"]):
            self._write_recording()
        if self._store.check(["lost"]):
            self._end(None)
        since, within = self._expected
        if now - max(since, self._woke) > within:
            self._give_up_waiting(within)

    def _gone(self, rank: int) -> None:
        if not self._store.check([f"left/{rank}"]):
            self._end(f"rank {rank} was lost")
        elif self._store.get(f"left/{rank}") == b"failed":
            self._end(None)

    def _give_up_waiting(self, within: float) -> None:
        waited = f"for {within:g} seconds{' (parallel.timeout)' if within == self._timeout else ''}"
        silent = self._unheard(_SILENT_SECONDS, time.monotonic())
        self._store.set("hanging", "")
        self._write_recording()
        if silent:
            for rank in silent:
                if rank in self._pidfds:  # it may be stopped, and then heeds no other signal
                    with suppress(ProcessLookupError):  # another has seen to it
                        signal.pidfd_send_signal(self._pidfds[rank], signal.SIGKILL)
            self._end(f"{_ranks(silent, 'has', 'have')} not answered {waited}")
        else:
            pieces = {rank: int(beat.split()[1]) for rank, (beat, _) in self._beats.items()}
            behind = [rank for rank, count in pieces.items() if count == min(pieces.values())]
            self._end(f"{_ranks(behind, 'kept')} the others waiting {waited}")

    def _write_recording(self) -> None:
        if self.recordings:
            _write_flight(self.recordings, self._rank)
            self.recordings, self._asking = None, time.monotonic()

    def _silent(self, seconds: float, now: float) -> list[int]:
        silent_since = {rank: max(heard, self._woke) for rank, (_, heard) in self._beats.items() if rank != self._rank}
        return [rank for rank, since in silent_since.items() if now - since > seconds]

    def _unheard(self, seconds: float, now: float) -> list[int]:
        """The ranks that have been silent for so long and have not left in their own way."""
        return [rank for rank in self._silent(seconds, now) if not self._store.check([f"left/{rank}"])]

    def _end(self, what: str | None) -> None:
        """Say it, unless another process has; then end this one, if the main thread does not."""
        if what:
            self._say(what)
        self._asking = None  # the store has answered
        self._found.set()
        if not self._closed.wait(_GRACE_SECONDS):
            _leave_at_once()

    def _say(self, what: str) -> None:
        first = self.first_to_tell()
        with suppress(dist.DistError):
            self._store.set("lost", what)
        if first:
            tell(f"error: {what}; rank {self._rank} stood at step {self._step}; the last complete checkpoint stays")


def _leave_at_once() -> None:
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(LOST)


def record_flight() -> None:
    """Let NCCL, before its first group is made and unless the environment says otherwise, keep a list of its last messages and
    collectives: torch's flight recorder."""
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3")
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")


def _write_flight(folder: Path, rank: int) -> None:
    """Write this process's list to `folder`/rank_<rank>, a pickle that torch's analyser reads; nothing where it keeps none.

    NCCL would write it after its own timeout, but the processes of a run that hangs are ended before. Whatever keeps the list
    from being written must not keep the process: it is waited for a few seconds at most.
    """
    if int(os.environ.get("TORCH_FR_BUFFER_SIZE", "0")) <= 0:
        return

    def write() -> None:
        dump = getattr(_distributed_c10d, "_dump_nccl_trace" if torch.cuda.is_initialized() else "_dump_fr_trace")
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            (folder / f"rank_{rank}").write_bytes(dump(includeStackTraces=False))
            # With the stacks, if there is time: for them torch imports its compiler, which takes a second or more.
            with whole_file(folder / f"rank_{rank}") as file:
                file.write(dump())

    writing = threading.Thread(target=write, name="flight recorder", daemon=True)
    writing.start()
    writing.join(_RECORDING_SECONDS)


def _ranks(ranks: list[int], verb: str, of_several: str = "") -> str:
    """They and the verb, which may be another for several."""
    return f"rank {ranks[0]} {verb}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))} {of_several or verb}"
