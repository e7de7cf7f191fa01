"""python -m alexnet_dist.bench count|data|slices|step [override=value ...]"""

import importlib
import sys

BENCHES = {
    "count": "launches and memory traffic of a training step, without its device",
    "data": "the feed beside other ways of reading the same images",
    "slices": "what slices cost, beside data parallelism",
    "step": "the training step beside other ways of taking it",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help"):
        print("usage: python -m alexnet_dist.bench <what> [override=value ...]\n\nwhat:")
        for bench, purpose in BENCHES.items():
            print(f"  {bench:8}{purpose}")
        print("\npython -m alexnet_dist.bench <what> --help shows its configuration.")
        return
    if name not in BENCHES:
        print(f"error: {name} is no benchmark: take one of {', '.join(BENCHES)}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    importlib.import_module(f"alexnet_dist.bench.{name}").main()


if __name__ == "__main__":
    main()
