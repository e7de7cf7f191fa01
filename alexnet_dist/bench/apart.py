"""Each reader in a process of its own, as those who use it have it."""

import multiprocessing
import signal
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection

import torch

from alexnet_dist.bench.readers import READERS, Asked
from alexnet_dist.bench.rounds import rate_of
from alexnet_dist.errors import RunFailed, UserError


@contextmanager
def readers_apart(asked: Asked) -> Iterator[dict[str, "Apart"]]:
    """All the readers by name, started. Their processes end with the context, or with the process that started them."""
    readers: dict[str, Apart] = {}
    try:
        # A Ctrl-C is for this process alone, whose end ends the others.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            for name in READERS:
                readers[name] = Apart(name, asked)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
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

    def measure(self, seconds: float, warm_up: int) -> float:
        """Images a second over so many seconds, after batches that are not counted. Raises UserError as the reader does."""
        try:
            self._connection.send((seconds, warm_up))
            answer: float | UserError = self._connection.recv()
        except (EOFError, ConnectionError):
            self.join()
            status = self._process.exitcode
            raise RunFailed(f"the process of '{self._name}' failed with status {status}: what is above may say why") from None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def close(self) -> None:
        """Have it end, after the batch under way."""
        self._connection.close()

    def join(self) -> None:
        """Until it has ended."""
        self._process.join()


class _LeftAlone(Exception):  # noqa: N818 - it is an outcome, not an error
    """The other side has closed the connection, or has ended."""


def _serve(connection: Connection, name: str, asked: Asked) -> None:
    torch.set_num_threads(1)  # a reader is told its threads: torch's own would be more than that

    def batches() -> Generator[int, None, None]:
        with closing(READERS[name](asked)) as reader:
            for count in reader:
                if connection.poll():  # nothing is sent during a turn: it is the end
                    raise _LeftAlone
                yield count

    with suppress(_LeftAlone), closing(batches()) as own:
        while True:
            try:
                seconds, warm_up = connection.recv()
            except (EOFError, ConnectionError):
                raise _LeftAlone from None
            try:
                answer: float | UserError = rate_of(own, seconds, warm_up)
            except UserError as error:
                answer = error
            try:
                connection.send(answer)
            except ConnectionError:
                raise _LeftAlone from None
