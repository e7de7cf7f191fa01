"""Several jobs of a sweep at a time on this machine, each with its share of the GPUs and of the cores."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from alexnet_dist.errors import UserError
from alexnet_dist.launching.processes import HANDED_ON


class SideBySide:
    """At most `at_once` jobs of `module` at a time, each started by a process of its own. They share `gpus`, by number or name as
    in CUDA_VISIBLE_DEVICES. `ended` hears each job's number and status. A signal is handed on to all; no other job is begun then.

    Raises:
        UserError: there are fewer GPUs than that, where there are some.
    """

    def __init__(self, module: str, at_once: int, gpus: list[str], ended: Callable[[int, int], object]) -> None:
        self._module = module
        self._ended = ended
        self._gpus = gpus
        if gpus and len(gpus) < at_once:
            raise UserError(f"parallel.jobs={at_once} is more than the GPUs here, {len(gpus)}: take that many or fewer")
        self._cores = sorted(os.sched_getaffinity(0))
        self._places: list[tuple[int, subprocess.Popen[bytes]] | None] = [None] * at_once
        self._received = 0
        for signum in HANDED_ON:
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._hand_on)

    def wait_for_room(self) -> None:
        """Wait until another job can begin. Raises SystemExit when a signal has come."""
        while None not in self._places:
            self._look()
        if self._received:
            sys.exit(128 + self._received)

    def start(self, number: int, config: dict[str, Any], log: Path) -> None:
        """Begin a job, for which there is room; what it says is added to `log`."""
        place = self._places.index(None)
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._share(self._gpus, place))
        log.parent.mkdir(parents=True, exist_ok=True)
        os.sched_setaffinity(0, self._share(self._cores, place))  # which the process inherits
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "alexnet_dist.launching.composed", self._module],
                    env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
        finally:
            os.sched_setaffinity(0, self._cores)
        assert process.stdin
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(config).encode())
        self._places[place] = (number, process)
        if self._received:  # meanwhile
            process.send_signal(self._received)

    def wait(self, number: int | None) -> None:
        """Wait for the end of a job, or of all."""
        while any(job and number in (None, job[0]) for job in self._places):
            self._look()

    def _look(self) -> None:
        """See for a moment whether a job has ended."""
        time.sleep(0.1)
        for place, job in enumerate(self._places):
            if job and job[1].poll() is not None:
                self._places[place] = None
                status = job[1].returncode
                if status < 0:  # ended by a signal: the one handed on, before it was heeded, or a kill
                    status = 128 + self._received if self._received else 1
                self._ended(job[0], status)

    def _share(self, things: list[Any], place: int) -> list[Any]:
        """The place's part of them; at least one, where there are fewer than places."""
        first, end = (len(things) * edge // len(self._places) for edge in (place, place + 1))
        return things[first : max(end, first + 1)]

    def _hand_on(self, signum: int, _: object) -> None:
        self._received = signum
        for job in self._places:
            if job:
                job[1].send_signal(signum)


def visible_gpus() -> list[str]:
    """Those that torch sees, by number or name as CUDA_VISIBLE_DEVICES has them."""
    named, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]
