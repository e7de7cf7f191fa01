"""How a command ends other than well, and what a person is told."""

import signal
import sys
from contextlib import suppress


class _OneLine(Exception):  # noqa: N818 - what its kinds have in common
    """`said_by_another`: whether another process says it; None where they could not agree on that."""

    said_by_another: bool | None = None


class UserError(_OneLine):
    """Something the user can put right. The message says what is wrong, where, and what to do, in one sentence.

    Every command prints it without a traceback and exits with status 2. Internal mistakes are other exceptions and keep
    their traceback.
    """


class RunFailed(_OneLine):
    """A run that cannot go on through no mistake of the user: a loss that is no number, a lost peer, a full disk.

    The message is one line; the last complete checkpoint stays and the process exits with status 1.
    """


class Stopped(Exception):  # noqa: N818 - it is an outcome of a run, not an error
    """All ranks have agreed, at the same step boundary, that the run ends because of a signal. Status 128 and its number."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def tell(line: str) -> None:
    """A line on standard error. Where that goes to a file on a full disk there is nobody to tell, and the run goes on."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
