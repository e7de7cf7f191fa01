"""How a command ends: what the user can mend is one sentence."""

import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from alexnet_dist.errors import (
    CRASHED,
    LOST,
    UNREACHABLE,
    USER_ERROR_STATUS,
    LostPeerError,
    RunFailed,
    Stopped,
    UserError,
    outlive_streams,
    tell,
)
from alexnet_dist.launching.outer import rank_of_process


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn what the user can mend into one sentence and status 2, and a failed run into one line and status 1. A standard stream
    that is lost does not change the status."""
    outlive_streams()
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        _tell_once(error, _sentence(error))
        sys.exit(USER_ERROR_STATUS)
    except UNREACHABLE as error:
        _tell_once(error, f"{error.filename or 'a file'} cannot be reached ({error.strerror}): ask its owner, or name another")
        sys.exit(USER_ERROR_STATUS)
    except KeyboardInterrupt:
        tell("interrupted")
        sys.exit(128 + signal.SIGINT)
    except Stopped as stopped:
        sys.exit(128 + stopped.signum)
    except RunFailed as error:
        _tell_once(error, str(error))
        sys.exit(1)
    except LostPeerError:
        # Launchers look every 0.1 s: the process that was lost, or that failed with words of its own, is to be found first.
        time.sleep(0.5)
        sys.exit(LOST)
    except Exception:
        tell(f"[rank {rank_of_process()}] {traceback.format_exc()}")
        sys.exit(CRASHED)


def _tell_once(error: Exception, sentence: str) -> None:
    """What all processes find wrong is said by one; the others wait for it, since the end of the first ends all."""
    said_by_another = getattr(error, "said_by_another", None)
    if said_by_another or (said_by_another is None and rank_of_process()):
        time.sleep(2 if said_by_another else 6)
    if not said_by_another:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {sentence}", markup=False, style="red")


def _sentence(error: Exception) -> str:
    """An error's message on one line, without Hydra's search paths and hints behind it."""
    kept = []
    for line in str(error).splitlines():
        if line.strip().startswith(("Config search path", "See https://", "full_key:", "object_type", "reference_type")):
            break
        kept.append(line.strip())
    return " ".join(part for part in kept if part)
