"""Each reader in a process of its own, as those who use it have it."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection

import torch

from alexnet_dist.bench.readers import READERS, Asked
from alexnet_dist.bench.rounds import rate_of
from alexnet_dist.errors import RunFailed, UserError


@contextmanager
def readers_apart(asked: Asked) -> Iterator[dict[str, "Apart"]]:
    """All the readers by name, started and ready. Their processes end with the context, or with the process that started them."""
    readers = {name: Apart(name, asked) for name in READERS}
    try:
        for reader in readers.values():
            reader.wait()
        yield readers
    finally:
        for reader in readers.values():
            reader.close()
        for reader in readers.values():
            reader.join()


class Apart:
    """A process that measures one reader."""

    def __init__(self, name: str, asked: Asked) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # what all need is imported once
        self._name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, asked))
        self._process.start()
        theirs.close()  # or nobody would notice the end of the other side

    def wait(self) -> None:
        """Until it has imported what it needs."""
        self._ask(None)

    def measure(self, seconds: float, warm_up: int) -> float:
        """Images a second over so many seconds, after batches that are not counted. Raises UserError as the reader does."""
        return self._ask((seconds, warm_up))

    def close(self) -> None:
        """Have it end, after the measurement under way."""
        self._connection.close()

    def join(self) -> None:
        """Until it has ended."""
        self._process.join()

    def _ask(self, turn: tuple[float, int] | None) -> float:
        try:
            self._connection.send(turn)
            answer: float | UserError = self._connection.recv()
        except (EOFError, ConnectionError):
            raise RunFailed(f"the process of '{self._name}' failed: what is above says why") from None
        if isinstance(answer, UserError):
            raise answer
        return answer


def _serve(connection: Connection, name: str, asked: Asked) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that started this one, whose end ends it
    torch.set_num_threads(1)  # a reader is told its threads: torch's own would be more than that
    with suppress(EOFError, ConnectionError), closing(READERS[name](asked)) as batches:
        while True:
            turn: tuple[float, int] | None = connection.recv()
            try:
                connection.send(rate_of(batches, *turn) if turn else 0.0)
            except UserError as error:
                connection.send(error)
