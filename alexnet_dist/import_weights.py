"""Weights that another program trained, or an export of this one, as a run folder that evaluate, predict and resume= take.

python -m alexnet_dist.import_weights weights=bvlc_alexnet.caffemodel mean=imagenet_mean.binaryproto \\
    classes=synset_words.txt output=runs/caffe
python -m alexnet_dist.import_weights weights=alexnet.pth model=torchvision output=runs/torchvision
python -m alexnet_dist.import_weights weights=x.safetensors output=runs/x
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic.dataclasses import dataclass

from alexnet_dist.checks import check_net
from alexnet_dist.data.class_names import read_class_names
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import RunFailed, UserError
from alexnet_dist.fields import FilePath, check, strict
from alexnet_dist.files import check_new, publish_new
from alexnet_dist.formats.arrays import read_arrays
from alexnet_dist.formats.caffemodel import read_mean
from alexnet_dist.formats.layouts import MEAN, TORCHVISION_MEAN, check_shapes, from_caffe, from_torchvision, is_torchvision
from alexnet_dist.formats.safetensors_file import WholeNet, is_own, whole_net
from alexnet_dist.launching.commands import command
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.settings import Settings
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.checkpoint import list_checkpoints
from alexnet_dist.training.meter import ErrorCount
from alexnet_dist.training.saving import Checkpoints
from alexnet_dist.training.state import SavedState, TrainingState
from alexnet_dist.training.update import MomentumSGD, Schedule

CPU = torch.device("cpu")
DEFAULT_MODEL = "caffe"


@dataclass(frozen=True, config=strict)
class ImportSettings:
    """What conf/import_weights.yaml says beside the configuration of a training."""

    weights: FilePath | None
    output: FilePath | None
    classes: FilePath | None
    mean: FilePath | tuple[float, float, float] | None


def run(config: dict[str, Any]) -> None:
    """Read the weights, fit them to the model's table, and write a run folder with one checkpoint of step 0."""
    own = {key: config.pop(key) for key in ImportSettings.__dataclass_fields__}
    wanted = check(ImportSettings, own)
    if wanted.weights is None or wanted.output is None:
        raise UserError("weights and output are not set: name the file with weights=... and a new run folder with output=...")
    output = check_new("output", wanted.output)
    settings = check_net(config)
    arrays, said = read_arrays(Path(wanted.weights))
    if is_own(said):
        kind = "an export of this program"
        net = whole_net(arrays, said)
        others = [name for name, value in (("classes", wanted.classes), ("mean", wanted.mean)) if value is not None]
        own_name = build_table(net.model).name
        if settings.table().name not in (DEFAULT_MODEL, own_name):
            others.append("model")
        given = {said.partition("=")[0] for said in config["run"].get("overrides", ())}
        others += [key for key in ("data.size", "data.mean") if key in given]
        if others:
            raise UserError(
                f"{wanted.weights} is {kind}, of model={own_name} with classes and a mean of its own: leave out "
                f"{', '.join(f'{name}=' for name in others)}"
            )
        config["model"] = net.model
        config["data"] |= {"size": net.size, "mean": net.mean}
        settings = check_net(config)
        table = settings.table()
        check_shapes({name: name for name in table.parameter_shapes()}, net.parameters, table)
    else:
        chosen = settings.table().name
        made_for = said.get("model", chosen) if said.get("origin", "").startswith("alexnet_dist") else chosen
        if made_for != chosen:
            raise UserError(f"{wanted.weights} is of the net {made_for}, and model= gives {chosen}: give the model it is of")
        kind = "torchvision's" if is_torchvision(arrays) else "Caffe's (channels in BGR, dropout that scales in training)"
        net = fit(arrays, settings, wanted)
    write_run(output, net, config, settings)
    table = settings.table()
    print(
        f"{output}: {table.parameters:,} parameters of {wanted.weights}, taken as {kind}, as model={table.name}, "
        f"{len(net.classes)} classes"
    )


def fit(arrays: dict[str, torch.Tensor], settings: Settings, wanted: ImportSettings) -> WholeNet:
    """The arrays of Caffe's or torchvision's layout as a net of the model's table. Raises UserError where they do not fit it."""
    table, size = settings.table(), settings.data.size
    if is_torchvision(arrays):
        if wanted.mean is not None:
            raise UserError("mean= is for weights of Caffe's layout: torchvision's expect their own mean colour, so leave it out")
        parameters = from_torchvision(arrays, table)
        mean = 255 * torch.tensor(TORCHVISION_MEAN)[:, None, None].expand(3, size, size)
    else:
        parameters = from_caffe(arrays, table)
        mean = _mean_of(arrays, wanted.mean, size).flip(0)
    classes, class_ids = read_classes(wanted.classes, table.classes)
    colours = Preprocess(size, table.input_size, settings.data.mean)
    statistics = {**dict(colours.named_buffers()), "mean_image": mean}
    return WholeNet(parameters, statistics, dict(settings.model), size, settings.data.mean, classes, class_ids)


def _mean_of(arrays: dict[str, torch.Tensor], wanted: str | tuple[float, float, float] | None, size: int) -> torch.Tensor:
    """The mean image that Caffe's net expects, float32 [3, size, size] in BGR."""
    if wanted is None:
        if MEAN not in arrays:
            raise UserError(
                "the weights come without a mean image: name Caffe's with mean=imagenet_mean.binaryproto or "
                "mean=ilsvrc_2012_mean.npy, or give a colour, mean=[104,117,123] (blue, green, red)"
            )
        mean = arrays[MEAN]
    elif isinstance(wanted, str):
        mean = _read_mean(Path(wanted))
    else:
        return torch.tensor(wanted)[:, None, None].expand(3, size, size)
    if mean.shape != (3, size, size):
        raise UserError(f"the mean image is {list(mean.shape)} and data.size is {size}: it must be [3, {size}, {size}]")
    return mean


def _read_mean(path: Path) -> torch.Tensor:
    try:
        if path.suffix == ".binaryproto":
            return read_mean(path)
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
    except (OSError, EOFError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"mean={path} cannot be read ({error}): give a .binaryproto or .npy file") from None
    raise UserError(f"mean={path} must end in .binaryproto or .npy")


def read_classes(path: str | None, outputs: int) -> tuple[list[str], list[str]]:
    """Words and ids of the classes, by label; without a file they are called by their numbers from 0.

    Raises:
        UserError: no such file, more lines than the net has outputs, or a name twice.
    """
    if path is None:
        numbers = [str(label) for label in range(outputs)]
        return numbers, numbers
    entries = read_class_names(path)
    if len(entries) > outputs:
        raise UserError(f"classes={path} names {len(entries)} classes and the net tells {outputs} apart: take the right file")
    return [entry.words for entry in entries], [entry.id for entry in entries]


def write_run(output: Path, whole: WholeNet, config: dict[str, Any], settings: Settings) -> None:
    """The run folder, whole or not at all. Raises RunFailed where it cannot be written."""
    table = settings.table()
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        (partial / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        with join_mesh(table.towers, CPU, settings.parallel.timeout) as mesh:
            net = Net(table)
            net.load_state_dict(whole.parameters)
            preprocess = Preprocess(settings.data.size, table.input_size, settings.data.mean)
            preprocess.load_state_dict(whole.statistics)
            state = TrainingState(
                net=net,
                optimizer=MomentumSGD(net, settings.optimizer),
                schedule=Schedule(settings.schedule, settings.optimizer.lr),
                preprocess=preprocess,
                errors=ErrorCount(mesh),
                images_per_epoch=1,  # none is trained on
            )
            shapes = table.parameter_shapes()
            saved = state.saved(SavedState(shapes, config, whole.classes, whole.class_ids, training_images=None))
            with Checkpoints(partial, settings.checkpoint, mesh, Display(rank=1), state, lambda: saved) as checkpoints:
                checkpoints.save()
        if not list_checkpoints(partial):
            raise RunFailed(f"{output} could not be written ({checkpoints.problem})")
        publish_new(partial, output)
    except OSError as error:
        raise RunFailed(f"{output} could not be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main() -> None:
    command("import_weights", run)


if __name__ == "__main__":
    main()
