"""How a command ends other than well, and what a person is told."""

import io
import logging
import os
import signal
import sys
from typing import Any, TextIO

# The status of a process that ends because of something the user can put right.
USER_ERROR_STATUS = 2

# Of one that a fault of the program ended (EX_SOFTWARE of sysexits.h).
CRASHED = 70

# Of one that lost another (EX_TEMPFAIL): the same command may succeed when it is started again.
LOST = 75

# What the system says of a file that is not to be had; the user can mend that too.
UNREACHABLE = (PermissionError, IsADirectoryError, NotADirectoryError)


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


class LostPeerError(Exception):
    """A connection to another process broke; what there is to say of it has been said."""


def reason_of(error: BaseException) -> str:
    """Why something failed, in a few words: what the system says, or the error's first line, or its kind."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


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
    """From now on this process neither ends nor fails because its standard output or error is lost, or has no word for what is
    written; nor does it tell of a log that a library cannot write."""
    logging.raiseExceptions = False
    sys.stdout = _outlived(sys.stdout, sys.__stdout__)
    sys.stderr = _outlived(sys.stderr, sys.__stderr__)


def _outlived(stream: TextIO, original: TextIO | None) -> TextIO:
    if stream is not original or not isinstance(stream, io.TextIOWrapper):  # done before, replaced by another, or closed
        return stream
    return _writing_to(stream.fileno(), stream)


def _writing_to(descriptor: int, like: io.TextIOWrapper) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_Stream(descriptor, "w", closefd=False)),
        encoding=like.encoding,
        errors=like.errors if like.encoding.lower() in ("utf-8", "utf8") else "backslashreplace",
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def leave_out_decoder_lines() -> None:
    """From now on what nvImageCodec writes of a bad image is left out of this process's standard error. It is coloured, names no
    file and would stand before the sentence that does. No level of its log is without it.

    What C and C++ write goes through a filter, a process, so that the last words of one that crashes come through too. What
    Python writes goes past it.
    """
    outlive_streams()
    if not isinstance(sys.stderr, io.TextIOWrapper):
        return
    kept, (read_end, write_end) = os.dup(2), os.pipe()
    moved = [(os.POSIX_SPAWN_DUP2, read_end, 0), (os.POSIX_SPAWN_DUP2, kept, 1)]
    command = ["sed", "-u", r"/\x1b\[0;31m/d; /^\[ERROR\] /d"]
    # It ends with the last that could write to it, and not with a signal that is sent to all processes of a job.
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    os.posix_spawnp("sed", command, {"LC_ALL": "C"}, file_actions=moved, setsigmask=signals)
    sys.stderr.flush()
    sys.stderr = _writing_to(kept, sys.stderr)
    os.dup2(write_end, 2)
    os.close(read_end)
    os.close(write_end)
