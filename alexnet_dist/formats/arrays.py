"""Files of named arrays: .npz, .safetensors, torch's .pt and .pth, and Caffe's .caffemodel."""

import pickle
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from alexnet_dist.errors import UserError
from alexnet_dist.formats.caffemodel import read_caffemodel

ENDINGS = (".npz", ".safetensors", ".pt", ".pth", ".caffemodel")


def need(package: str, purpose: str, extra: str = "export") -> None:
    """Raises UserError where a package of an extra is not installed."""
    if find_spec(package) is None:
        raise UserError(f"{purpose} needs the package {package}: install it with pip install 'alexnet-dist[{extra}]'")


def read_arrays(path: Path, setting: str = "weights") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The floating-point arrays of a file by name, as float32 on the CPU, and what a .safetensors file says beside them.

    Nothing in a file is executed: pickled objects other than tensors are refused. `setting` is what named it, for messages.

    Raises:
        UserError: no such file, one of another kind or a damaged one, or one with other things than arrays.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"{setting}={path} must end in one of {', '.join(ENDINGS)}")
    if not path.is_file():
        raise UserError(f"{setting}={path} is no file: name the file with the weights")
    try:
        arrays, said = _read(path, setting)
    except UserError:
        raise
    # What the readers raise on damaged files: theirs, zipfile's, pickle's, and KeyError or the like of torch.load.
    except (OSError, EOFError, ValueError, RuntimeError, LookupError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{setting}={path} cannot be read ({reason}): get the file again") from None
    if not arrays:
        raise UserError(f"{setting}={path} holds no arrays")
    for name, array in arrays.items():
        if not array.is_floating_point():
            raise UserError(f"{setting}={path}: {name} is of {array.dtype}, not of floating-point numbers")
    return {name: array.float() for name, array in arrays.items()}, said


def _read(path: Path, setting: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.array(file[name])) for name in file.files}, {}
    if path.suffix == ".caffemodel":
        return read_caffemodel(path), {}
    if path.suffix == ".safetensors":
        need("safetensors", "a .safetensors file")
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(error) from None
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UserError(f"{setting}={path} is no state dict: save one with torch.save(net.state_dict(), ...)")
    return {str(name): tensor for name, tensor in loaded.items()}, {}
