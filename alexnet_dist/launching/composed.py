"""A command on a configuration that is composed already: a job of a sweep, in a process of its own.

python -m alexnet_dist.launching.composed alexnet_dist.train < config.json
"""

import gc
import json
import os
import sys
import threading

from alexnet_dist.launching.commands import start
from alexnet_dist.launching.processes import end_after, stand_by
from alexnet_dist.launching.sentences import errors_as_sentences


def main() -> None:
    gc.enable()
    stand_by()
    with errors_as_sentences():
        threading.Thread(target=end_after, args=(os.getppid(),), name="sweep", daemon=True).start()
        sys.exit(start(sys.argv[1], json.load(sys.stdin)))


if __name__ == "__main__":
    main()
