"""A whole net in one .safetensors file: parameters, mean image, colours; in its metadata the table, the classes and the cut."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alexnet_dist import __version__
from alexnet_dist.errors import UserError

_MARK = "alexnet_dist"
_DATA = "data."

# What data.mean has subtracted from a crop.
MEAN_SUBTRACTED = {
    "aligned": "the part of the mean image that the crop lies on",
    "centre": "the centre of the mean image, wherever the crop lies",
}


@dataclass(frozen=True)
class WholeNet:
    """A net with what it needs to look at an image.

    parameters: float32, by the net's names. statistics: `Preprocess`'s buffers. model: the table's rows. size: pixels of the
    squares that views are cut from. mean: which part of the mean image a view has subtracted, "aligned" or "centre", as
    `Preprocess` says. classes, class_ids: by label.
    """

    parameters: dict[str, torch.Tensor]
    statistics: dict[str, torch.Tensor]
    model: dict[str, Any]
    size: int
    mean: str
    classes: list[str]
    class_ids: list[str]


def write_safetensors(path: Path, net: WholeNet, origin: str) -> None:
    """Write it; `origin` says in words where it comes from."""
    crop = net.model["input"]
    preprocessing = {
        "size": net.size,
        "crop": crop,
        "channels": "RGB",
        "range": [0, 255],
        "mean_image": f"{_DATA}mean_image",
        "mean": net.mean,
        "steps": f"scale the shorter side to {net.size} pixels (triangle filter, antialiased), take the centre {net.size} x "
        f"{net.size}, cut {crop} x {crop}, subtract {MEAN_SUBTRACTED[net.mean]}",
    }
    metadata = {
        _MARK: __version__,
        "origin": origin,
        "model": json.dumps(net.model),
        "preprocessing": json.dumps(preprocessing),
        "dropout": "testing multiplies the outputs of a dropped layer by 1 - p",
        "classes": json.dumps(net.classes),
        "class_ids": json.dumps(net.class_ids),
    }
    tensors = {**net.parameters, **{_DATA + name: tensor for name, tensor in net.statistics.items()}}
    save_tensors(path, tensors, metadata)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file."""
    from safetensors.torch import save

    # By way of the bytes: save_file makes a file that its owner alone may read.
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(metadata)))


def is_own(metadata: Mapping[str, str]) -> bool:
    """Whether a file's metadata is that of `write_safetensors`."""
    return _MARK in metadata


def whole_net(arrays: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> WholeNet:
    """What `write_safetensors` wrote. Raises UserError where its metadata is not whole."""
    try:
        preprocessing = json.loads(metadata["preprocessing"])
        return WholeNet(
            parameters={name: array for name, array in arrays.items() if not name.startswith(_DATA)},
            statistics={name.removeprefix(_DATA): array for name, array in arrays.items() if name.startswith(_DATA)},
            model=json.loads(metadata["model"]),
            size=preprocessing["size"],
            mean=preprocessing["mean"],
            classes=json.loads(metadata["classes"]),
            class_ids=json.loads(metadata["class_ids"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"the metadata of the weights is not that of an export of this program ({error}): export again") from None
