"""A reader in a process of its own, as who uses it has it."""

import multiprocessing
import signal
from contextlib import closing, suppress
from multiprocessing.connection import Connection

import torch

from alexnet_dist.bench.readers import READERS, Asked
from alexnet_dist.bench.rounds import rate_of
from alexnet_dist.errors import RunFailed, UserError


class Apart:
    """Starts the process, which ends with the context or with the process that started it. `measure` after `wait`."""

    def __init__(self, name: str, asked: Asked) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, asked))
        self._process.start()
        theirs.close()  # or nobody would notice the end of the other side

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()

    def wait(self) -> None:
        """Until it has imported what it needs."""
        self._receive()

    def measure(self, seconds: float, warm_up: int) -> float:
        """Images a second over so many seconds, after batches that are not counted. Raises UserError as the reader does."""
        self._connection.send((seconds, warm_up))
        rate = self._receive()
        assert rate is not None
        return rate

    def _receive(self) -> float | None:
        try:
            received: float | UserError | None = self._connection.recv()
        except EOFError:
            raise RunFailed(f"the process of '{self._name}' failed: what is above says why") from None
        if isinstance(received, UserError):
            raise received
        return received


def _serve(connection: Connection, name: str, asked: Asked) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that started this one, whose end ends it
    torch.set_num_threads(1)  # a reader is told its threads: torch's own would be more than that
    with suppress(EOFError, ConnectionError), closing(READERS[name](asked)) as batches:
        connection.send(None)
        while True:
            seconds, warm_up = connection.recv()
            try:
                rate = rate_of(batches, seconds, warm_up)
            except UserError as error:
                connection.send(error)
            else:
                connection.send(rate)
