"""AlexNet as it was trained in 2012: each tower in its own process, crossing where the original crossed."""

import signal
import sys

# python -m alexnet_dist.train: until the command heeds a Ctrl-C, seconds later, that ends it without a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

__version__ = "0.1.0"
