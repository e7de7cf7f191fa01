"""From what DALI has decoded to the crops: scaled where DALI has not done it, and mirrored."""

import ctypes
import functools
import os
from collections import deque
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from nvidia.dali.backend import TensorListCPU, TensorListGPU

from alexnet_dist.data.places import Places
from alexnet_dist.errors import tell
from alexnet_dist.kernels.native import CompilerError, Toolchain, load_library

TensorList = TensorListCPU | TensorListGPU


@functools.cache
def load_cutter() -> ctypes.CDLL | None:
    """cut.cpp for this processor; None, with a warning from a node's first process, where it cannot be compiled."""
    try:
        toolchain = Toolchain(("c++",), Path.home() / ".cache" / "alexnet_dist")
        return load_library(Path(__file__).with_name("cut.cpp"), toolchain, tell)
    except CompilerError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            tell(f"warning: {error}: images are scaled and mirrored by torch, which takes longer for the same pixels")
        return None


def cut(decoded: TensorList, places: Places, mirror: np.ndarray, *, crop: int, threads: int, pool: Executor) -> torch.Tensor:
    """The crops, uint8 [b, crop, crop, 3], from what the pipeline decoded for these places; mirror bool [b].

    On the CPU images are scaled here, by so many threads of `pool`: DALI's operator takes several times as long. The pixels are
    those of torch's kernel for bytes, which are Pillow's, of the whole image.
    """
    if isinstance(decoded, TensorListGPU):
        # Into memory of torch, whose allocator knows the streams that use it.
        pixels = torch.from_dlpack(decoded.as_tensor()).clone()
        mirrored = torch.from_numpy(np.flatnonzero(mirror)).to(pixels.device)
        pixels[mirrored] = pixels[mirrored].flip(2)
        return pixels
    cutter = load_cutter()
    if not places.is_scaled().any():
        pixels = torch.from_dlpack(decoded.as_tensor())
        _mirror(cutter, pixels, np.flatnonzero(mirror))
    elif cutter is None:
        pixels = _scale_by_torch(decoded, places, crop, pool)
        _mirror(None, pixels, np.flatnonzero(mirror))
    else:
        pixels = _scale(cutter, decoded, places, mirror, crop, threads, pool)
    return pixels


def _scale(
    cutter: ctypes.CDLL, decoded: TensorListCPU, places: Places, mirror: np.ndarray, crop: int, threads: int, pool: Executor
) -> torch.Tensor:
    first, last = places.read(crop)
    assert np.array_equal(np.array(decoded.shape())[:, :2], last - first)
    # The struct Place of cut.cpp.
    columns = (first, (last - first)[:, 1:], places.sides, places.scaled, places.first, mirror[:, None])
    rows = np.concatenate(columns, axis=1, dtype=np.int64)
    regions = np.array([decoded[i].data_ptr() for i in range(len(rows))], np.uint64)
    crops = torch.empty(len(rows), crop, crop, 3, dtype=torch.uint8)
    taken = np.zeros(1, np.int64)

    def share(_: int) -> None:
        counts = ctypes.c_int64(len(rows)), ctypes.c_int64(crop)
        cutter.cut(_pointer(regions), _pointer(rows), *counts, ctypes.c_void_p(crops.data_ptr()), _pointer(taken))

    deque(pool.map(share, range(threads)), maxlen=0)
    return crops


def _scale_by_torch(decoded: TensorListCPU, places: Places, crop: int, pool: Executor) -> torch.Tensor:
    scaled, sizes, first = places.is_scaled(), places.scaled.tolist(), places.first.tolist()
    crops = torch.empty(len(scaled), crop, crop, 3, dtype=torch.uint8)

    def scale(i: int) -> None:
        image = torch.from_dlpack(decoded[i])
        if scaled[i]:  # then it is whole
            y, x = first[i]
            planes = F.interpolate(image[None].permute(0, 3, 1, 2), sizes[i], mode="bilinear", antialias=True)
            image = planes[0].permute(1, 2, 0)[y : y + crop, x : x + crop]
        crops[i] = image

    deque(pool.map(scale, range(len(scaled))), maxlen=0)
    return crops


def _mirror(cutter: ctypes.CDLL | None, crops: torch.Tensor, rows: np.ndarray) -> None:
    """Mirror these rows of [b, crop, crop, 3] in place."""
    if cutter is None:
        for row in rows:  # one by one is nine times as fast as all in one operation
            crops[row] = crops[row].flip(1)
    else:
        counts = ctypes.c_int64(len(rows)), ctypes.c_int64(crops.shape[1])
        cutter.mirror(ctypes.c_void_p(crops.data_ptr()), _pointer(rows), *counts)


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
