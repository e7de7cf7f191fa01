"""python -m alexnet_dist.bench count|data|slices|step [override=value ...]"""

import importlib

from alexnet_dist.__main__ import chosen
from alexnet_dist.launching.commands import command, distributed_command

BENCHES = {
    "count": "launches and memory traffic of a training step, without its device",
    "data": "the feed beside other ways of reading the same images",
    "slices": "what slices cost, beside data parallelism",
    "step": "the training step beside other ways of taking it",
}
_IN_PROCESSES = ("slices", "step")


def main() -> None:
    usage = "usage: python -m alexnet_dist.bench <what> [override=value ...]\n\nwhat:"
    if name := chosen(BENCHES, "benchmark", usage, "python -m alexnet_dist.bench <what> --help shows its configuration."):
        bench = importlib.import_module(f"alexnet_dist.bench.{name}")
        if name in _IN_PROCESSES:
            distributed_command(bench.__name__, f"bench_{name}")
        else:
            command(f"bench_{name}", bench.run)


if __name__ == "__main__":
    main()
