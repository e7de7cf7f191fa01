"""AlexNet as it was trained in 2012: each tower in its own process, crossing where the original crossed."""

import gc
import signal
import sys


def before_imports() -> None:
    """What a command does first, until it has imported what it needs, which takes seconds."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command heeds a Ctrl-C, that ends it without a traceback
    gc.disable()  # what is imported is no garbage: to look for some takes a sixth of that time


if sys.argv[:1] == ["-m"]:  # python -m alexnet_dist.train
    before_imports()

__version__ = "0.1.0"
