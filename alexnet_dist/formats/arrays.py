"""Files of named arrays, known by what is in them: NumPy's .npz, safetensors, torch's and Caffe's .caffemodel."""

import argparse
import pathlib
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet_dist.errors import UserError, reason_of
from alexnet_dist.formats.caffemodel import read_caffemodel

KINDS = "safetensors, torch's .pt or .pth, NumPy's .npz, Caffe's .caffemodel"
_WRAPPERS = {"module", "_orig_mod", "model"}  # DataParallel, torch.compile, Lightning and the like
_STATE_DICTS = ("state_dict", "model")  # pytorch/examples, timm and Lightning; torchvision's references

# What trainings store beside their weights and a loader may make without running anything: argparse's options, paths, and numbers
# of NumPy 1 and 2.
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)},
]


def need(package: str, purpose: str, extra: str = "export") -> None:
    """Raises UserError where a package of an extra is not installed."""
    if find_spec(package) is None:
        raise UserError(f"{purpose} needs the package {package}: install it with pip install 'alexnet-dist[{extra}]'")


def listed(names: Iterable[str]) -> str:
    """The first of many names, and how many there are."""
    every = list(names)
    return ", ".join(every[:4]) + (f", ... ({len(every)} in all)" if len(every) > 4 else "")


def read_arrays(path: Path, setting: str = "weights") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The floating-point arrays of a file by name, as float32 on the CPU, and what a safetensors file says beside them.

    The file's ending does not matter. Of a training's checkpoint they are the state dict's. The names are without the prefixes
    that wrappers of a net give them. Nothing in a file is executed: pickled objects are refused. `setting` is what named it, for
    messages.

    Raises UserError: no such file, one of another kind or a damaged one, or one with other things than arrays.
    """
    if not path.is_file():
        raise UserError(f"{setting}={path} is no file: name the file with the weights")
    try:
        arrays, said = _read(path, setting)
    except UserError:
        raise
    # What the readers raise on damaged files is not a closed list: zipfile's, pickle's and struct's errors, AssertionError, ...
    except Exception as error:
        raise UserError(
            f"{setting}={path} cannot be read ({reason_of(error)}): get the file again, or another kind ({KINDS})"
        ) from None
    if not arrays:
        raise UserError(f"{setting}={path} holds no arrays: take a file of weights ({KINDS})")
    for name, array in arrays.items():
        if not array.is_floating_point():
            raise UserError(f"{setting}={path}: {name} is of {array.dtype}, not of floating-point numbers")
    return {name: array.float() for name, array in arrays.items()}, said


def _read(path: Path, setting: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            of_numpy = all(name.endswith(".npy") for name in archive.namelist())
        if of_numpy:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}, {}
    if head.startswith((b"PK", b"\x80")):  # torch's zip, and its pickle of before 1.6
        return _unwrapped(_state_dict(_load(path, setting), f"{setting}={path}")), {}
    if head[8:] == b"{":  # behind the length of the header
        need("safetensors", f"{setting}={path}, a safetensors file,")
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as tensors:
                return _unwrapped({name: tensors.get_tensor(name) for name in tensors.keys()}), tensors.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(error) from None
    return read_caffemodel(path), {}


def _load(path: Path, setting: str) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{setting}={path} holds a pickled {found[1]}, which is not loaded, for a pickle may run anything: save the "
                "weights alone with torch.save(net.state_dict(), ...)"
            ) from None
        raise


def _state_dict(loaded: Any, named: str) -> dict[str, torch.Tensor]:
    """The state dict that is loaded, or the one among what a training stored. Raises UserError for none, or several."""
    if isinstance(loaded, Mapping) and {"parameters", "mean_image"} <= loaded.keys():
        raise UserError(f"{named} goes with the module of an export, which holds its net: export with format=safetensors instead")
    found = {"": loaded, **loaded} if isinstance(loaded, Mapping) else {}
    found = {key: value for key, value in found.items() if isinstance(value, Mapping) and value and _all_tensors(value)}
    chosen = next((key for key in ("", *_STATE_DICTS) if key in found), None)
    if chosen is None and len(found) == 1:
        (chosen,) = found
    if chosen is None:
        holds = listed(map(str, loaded)) if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
        what = f"{len(found)} state dicts and none is called {' or '.join(_STATE_DICTS)}" if found else "no state dict among them"
        raise UserError(f"{named} holds {holds or 'nothing'}, {what}: save one with torch.save(net.state_dict(), ...)")
    return {str(name): tensor for name, tensor in found[chosen].items()}


def _all_tensors(values: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, torch.Tensor) for value in values.values())


def _unwrapped(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Under names without wrappers' parts: `module.features.0.weight`, `features.module.0.weight` are `features.0.weight`."""
    plain = {".".join(part for part in name.split(".") if part not in _WRAPPERS): array for name, array in arrays.items()}
    return plain if len(plain) == len(arrays) else arrays
