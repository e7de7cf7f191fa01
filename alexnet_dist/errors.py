"""How a command ends other than well, and what a person is told."""

import io
import signal
import sys
from typing import Any, TextIO


class _OneLine(Exception):  # noqa: N818 - what its kinds have in common
    """`said_by_another`: whether another process says it; None where they could not agree on that."""

    said_by_another: bool | None = None


class UserError(_OneLine):
    """Something the user can put right. The message says what is wrong, where, and what to do, in one sentence.

    Every command prints it without a traceback and exits with status 2. Internal mistakes are other exceptions and keep
    their traceback.
    """


class RunFailed(_OneLine):
    """A run that cannot go on through no mistake of the user: a loss that is NaN, a lost peer, a full disk.

    The message is one line; the last complete checkpoint stays and the process exits with status 1.
    """


class Stopped(Exception):  # noqa: N818 - it is an outcome of a run, not an error
    """All ranks have agreed, at the same step boundary, that the run ends because of a signal. Status 128 and its number."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def tell(line: str) -> None:
    """A line on standard error."""
    print(line, file=sys.stderr, flush=True)


class _Stream(io.FileIO):
    """Standard output or error, whose loss costs nothing but the output: a reader that has left, a terminal that was closed, a
    log on a full disk. What cannot be written is dropped."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def outlive_streams() -> None:
    """From now on this process neither ends nor fails because its standard output or error is lost."""
    sys.stdout = _outlived(sys.stdout, sys.__stdout__)
    sys.stderr = _outlived(sys.stderr, sys.__stderr__)


def _outlived(stream: TextIO, original: TextIO | None) -> TextIO:
    if stream is not original or not isinstance(stream, io.TextIOWrapper):  # done before, replaced by another, or closed
        return stream
    raw = _Stream(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
