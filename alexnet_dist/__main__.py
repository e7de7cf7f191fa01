"""alexnet-dist <command> [overrides]: the commands under one name."""

import importlib
import sys

from alexnet_dist import __version__, before_imports

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
_MODULES = {"model": "alexnet_dist.table", "bench": "alexnet_dist.bench.__main__", "slurm": "alexnet_dist.launching.scripts"}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help"):
        print("usage: alexnet-dist <command> [override=value ...]\n\ncommands:")
        for command, purpose in COMMANDS.items():
            print(f"  {command:16}{purpose}")
        print("\nalexnet-dist <command> --help shows a command's configuration.")
        return
    if name == "--version":
        print(f"alexnet-dist {__version__}")
        return
    if name not in COMMANDS:
        print(f"error: {name} is no command: take one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    before_imports()
    importlib.import_module(_MODULES.get(name, f"alexnet_dist.{name}")).main()


if __name__ == "__main__":
    main()
