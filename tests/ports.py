"""Free ports for the processes that a test starts.

A port that the kernel has chosen and that is let go may be given to another connection before its owner has started. These lie
below those that the kernel chooses by itself, a part for each of pytest's workers.
"""

import os
import socket
from contextlib import ExitStack
from itertools import count

FIRST, EACH, WORKERS = 10_000, 100, 20
_asked = count(os.getpid())  # other sessions on this machine begin elsewhere


def free_ports(wanted: int = 1) -> list[int]:
    """So many ports that follow each other and that nobody listens to."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    for _ in range(EACH):
        first = FIRST + EACH * worker + wanted * (next(_asked) % (EACH // wanted))
        ports = list(range(first, first + wanted))
        with ExitStack() as probes:
            try:
                for port in ports:
                    probes.enter_context(socket.socket()).bind(("", port))
            except OSError:
                continue
        return ports
    raise OSError(f"no {wanted} ports are free from {FIRST} on")
