"""alexnet-dist <command> [overrides]: the commands under one name."""

import importlib
import sys

from alexnet_dist import __version__, before_imports
from alexnet_dist.errors import outlive_streams

COMMANDS = {
    "train": "train a net; with nothing else said, the quick start",
    "evaluate": "error rates of a checkpoint, or of several averaged",
    "predict": "what a checkpoint sees in image files",
    "features": "what a layer of a checkpoint's net makes of the images of a data set, as .npy or .parquet",
    "export": "a checkpoint's net as safetensors, a plain torch module, ONNX or Caffe's layout",
    "import_weights": "a run folder from Caffe's or torchvision's weights, or from an export",
    "report": "a page of a run or a sweep: curves, kernels, predictions, numbers",
    "track": "rebuild a run's W&B record from its folder",
    "model": "print a model's table: shapes, parameters, multiply-adds, bytes that cross",
    "plan": "predict steps, memory and training time on other machines, for every layout",
    "bench": "measure the feed or the step beside other ways of doing the same",
    "slurm": "write the batch scripts for SLURM into slurm/, or the folder that is named",
    "prepare": "pack ImageNet or another set of images for training",
}
_HELP = "alexnet-dist <command> --help shows a command's configuration."
_MODULES = {"model": "alexnet_dist.table", "bench": "alexnet_dist.bench.__main__", "slurm": "alexnet_dist.launching.scripts"}


def main() -> None:
    if sys.argv[1:2] == ["--version"]:
        print(f"alexnet-dist {__version__}")
    elif name := chosen(COMMANDS, "command", "usage: alexnet-dist <command> [override=value ...]\n\ncommands:", _HELP):
        before_imports()
        importlib.import_module(_MODULES.get(name, f"alexnet_dist.{name}")).main()


def chosen(choices: dict[str, str], kind: str, usage: str, more: str) -> str | None:
    """The choice that the command line begins with, taken off it. None where there is none: what there is has been printed."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help"):
        outlive_streams()
        width = max(map(len, choices)) + 2
        print(usage, *(f"  {choice:{width}}{purpose}" for choice, purpose in choices.items()), f"\n{more}", sep="\n")
        return None
    if name not in choices:
        print(f"error: {name} is no {kind}: take one of {', '.join(choices)}", file=sys.stderr)
        sys.exit(2)
    return sys.argv.pop(1)


if __name__ == "__main__":
    main()
