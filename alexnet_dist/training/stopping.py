"""Signals that end a run: noted when they come, agreed on by all ranks at a step boundary."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from alexnet_dist.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


class Stopping:
    """Within it, SIGINT, SIGTERM, SIGUSR1, SIGUSR2 and SIGHUP on any rank end the run at a step boundary. A second SIGINT leaves
    at once; a SIGHUP that was ignored before, as under nohup, still is.

    Until the first boundary there is nothing to save: `before_the_first` is called with the signal's number, in a thread, and the
    process ends; a boundary that is reached meanwhile is not passed.

    All ranks enter it together. They agree by an all-reduce of three CPU numbers over `group`, which is gloo's. It is begun at
    one boundary and read at the next, so that no step waits for it.
    """

    def __init__(self, group: dist.ProcessGroup, before_the_first: Callable[[signal.Signals], None]) -> None:
        self._group = group
        self._before_the_first = before_the_first
        self._stepping = False
        self._first_boundary = threading.Lock()
        self._received = 0
        self._votes = torch.zeros(3, dtype=torch.int32)
        self._bad_image = False
        self._work: dist.Work | None = None

    def check(self, time_for_checkpoint: bool = False, bad_image: bool = False) -> bool:
        """Every rank calls this at every boundary; whether for some rank, at the boundary before, it was time for a checkpoint,
        which is then to be begun here.

        `bad_image`: whether this rank has met one in the next batches.

        Raises:
            Stopped: some rank had received a signal at the boundary before; on all ranks alike.
        """
        with self._first_boundary:
            self._stepping = True
        agreed = False
        if self._work is not None:
            self._work.wait()
            self._work = None
            signum, agreed = int(self._votes[0]), bool(self._votes[1])
            self._bad_image |= bool(self._votes[2])
            if signum:
                raise Stopped(signum)
        self._votes = torch.tensor([self._received, time_for_checkpoint and not agreed, bad_image], dtype=torch.int32)
        self._work = dist.all_reduce(self._votes, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed

    def bad_image_met(self) -> bool:
        """Whether some rank had met a bad image at a boundary before the last; told once, to all ranks alike."""
        met, self._bad_image = self._bad_image, False
        return met

    def __enter__(self) -> "Stopping":
        self._listening, self._telling = os.pipe()
        os.set_blocking(self._telling, False)
        # A thread hears of a signal even while the main thread, which alone runs handlers, waits for a peer.
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        heeded = [signum for signum in SIGNALS if (signum, signal.getsignal(signum)) != (signal.SIGHUP, signal.SIG_IGN)]
        signal.set_wakeup_fd(self._telling, warn_on_full_buffer=False)
        self._before = {signum: signal.signal(signum, lambda *_: None) for signum in heeded}
        dist.barrier(group=self._group)  # a signal would end a rank that does not yet listen, and the others would lose it
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            if self._work is not None:
                self._work.wait()
            dist.barrier(group=self._group)  # rank 0 may still draw its report, and a signal would end those that wait for it
        signal.set_wakeup_fd(-1)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        os.close(self._telling)

    def _listen(self) -> None:
        """What arrives is the number of each signal, a byte."""
        while told := os.read(self._listening, 1):
            with self._first_boundary:
                if not self._stepping:
                    self._before_the_first(signal.Signals(told[0]))
                    os._exit(128 + told[0])
            # torchrun passes a second Ctrl-C on as SIGTERM.
            if self._received == signal.SIGINT and told[0] in (signal.SIGINT, signal.SIGTERM):
                os._exit(128 + signal.SIGINT)
            self._received = self._received or told[0]
        os.close(self._listening)
