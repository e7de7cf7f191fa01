"""python -m alexnet_dist.bench count|data|slices|step [override=value ...]"""

import importlib

from alexnet_dist.__main__ import chosen

BENCHES = {
    "count": "launches and memory traffic of a training step, without its device",
    "data": "the feed beside other ways of reading the same images",
    "slices": "what slices cost, beside data parallelism",
    "step": "the training step beside other ways of taking it",
}


def main() -> None:
    usage = "usage: python -m alexnet_dist.bench <what> [override=value ...]\n\nwhat:"
    if name := chosen(BENCHES, "benchmark", usage, "python -m alexnet_dist.bench <what> --help shows its configuration."):
        importlib.import_module(f"alexnet_dist.bench.{name}").main()


if __name__ == "__main__":
    main()
