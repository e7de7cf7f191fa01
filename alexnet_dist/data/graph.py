"""The DALI graphs: from encoded bytes and a crop to uint8 pixels, on the CPU or the GPU."""

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.backend import TensorCPU, TensorListCPU, TensorListGPU
from nvidia.dali.pipeline import Pipeline

TensorList = TensorListCPU | TensorListGPU

PREFETCH = 2

# DALI's list of the cores that the threads of a pipeline are pinned to, and whether it is not the user's.
_MASK = "DALI_AFFINITY_MASK"
_MASK_IS_OURS = _MASK not in os.environ


@dataclass(frozen=True)
class Places:
    """Where the crops of b images lie, (y, x) of each: [b, 2].

    sides int64: of the whole image, in pixels of the file. scaled int64: its sides once the shorter one is scaled. first int64:
    where the crop begins in the scaled image.
    """

    sides: np.ndarray
    scaled: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, sides: np.ndarray, offset: np.ndarray, size: int) -> "Places":
        """Of crops at `offset` (y, x) in the centre size x size of images whose shorter side is scaled to `size`."""
        scaled = sides * size // sides.min(axis=1, keepdims=True)
        surplus = scaled - size
        # Where torchvision's Resize and CenterCrop put the centre square.
        corner = (surplus + (surplus // 2 & 1)) // 2
        return cls(sides, scaled, corner + offset)

    @property
    def step(self) -> np.ndarray:
        """Pixels of the file for one of the scaled image, float64 [b, 2]."""
        return self.sides / self.scaled

    def is_scaled(self) -> np.ndarray:
        """Which images are scaled at all, bool [b]."""
        return (self.sides != self.scaled).any(axis=1)

    def read(self, crop: int) -> tuple[np.ndarray, np.ndarray]:
        """First and last + 1 pixels of the file, int64 [b, 2], that the crops are made of and the scaling's filter reaches."""
        start = self.first * self.step
        reach = (self.step + 1.0) * self.is_scaled()[:, None]
        first = np.floor(start - reach).clip(0)
        last = np.minimum(np.ceil(start + crop * self.step + reach), self.sides)
        return first.astype(np.int64), last.astype(np.int64)


# What `build_pipeline`'s source gives for a batch: the encoded images and where their crops lie.
Inputs = tuple[TensorListCPU, Places]


def tensors_of(encoded: list[np.ndarray]) -> TensorListCPU:
    """Encoded images as tensors of DALI, where they lie; left to itself it makes them for each pipeline, and more slowly."""
    tensors = [TensorCPU(image, "") for image in encoded]
    return TensorListCPU(tensors, "", contiguous=False)  # type: ignore[call-overload]  # the stubs lack `contiguous`


class Sides:
    """The sides of encoded images, from their headers, by DALI; EXIF orientation is honoured."""

    def __init__(self, batch_size: int) -> None:
        # DALI's other executor would keep 64 bytes for every place in memory that an image has ever had.
        self._pipeline = _peek(batch_size=batch_size, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
        self._pipeline.build()

    def __call__(self, encoded: TensorListCPU) -> np.ndarray:
        """(height, width) of each, int64 [b, 2]. Raises RuntimeError where one is no image; then it cannot be called again."""
        self._pipeline.feed_input("encoded", encoded)
        (shapes,) = self._pipeline.run()
        return np.array(shapes.as_tensor())[:, :2]


def build_pipeline(source: Callable[[], Inputs], *, crop: int, batch_size: int, threads: int, device_id: int | None) -> Pipeline:
    """A pipeline that ends where `source` raises StopIteration; what it gives is for `cut` to finish.

    An image is scaled (triangle filter, antialiased) and of it the crop x crop at the given place is taken (paper, section 2). An
    image that need not be scaled is not resampled. EXIF orientation is honoured. With device_id None all is done on the CPU,
    else decoding and what follows are done on that GPU.

    `source` is called PREFETCH batches ahead. Its arrays are not copied.

    On the CPU each thread is pinned to a core. Left to the scheduler, one waits behind a thread of Python's while another core
    has nothing to do, and all wait for it at the end of a batch.
    """
    graph, inputs_of = (_decode_on_cpu, _for_cpu) if device_id is None else (_decode_and_scale_on_gpu, _for_gpu)
    held: deque[tuple[TensorListCPU | np.ndarray, ...]] = deque(maxlen=2 * PREFETCH + 2)

    def inputs() -> tuple[TensorListCPU | np.ndarray, ...]:
        encoded, places = source()
        held.append((encoded, *inputs_of(places, crop)))
        return held[-1]

    # DALI's operators hold the function that they are given in a cycle. It would keep what it reads from until Python looks for
    # cycles, hours later: so they get a weak reference, and the function lives as long as the pipeline.
    pipeline = graph(
        weakref.proxy(inputs),
        crop,
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=PREFETCH,
        exec_dynamic=True,
        set_affinity=device_id is None and name_cores(threads),
    )
    pipeline.inputs = inputs
    pipeline.build()
    return pipeline


def name_cores(threads: int) -> bool:
    """Tell DALI which cores to pin a pipeline's threads to: beside those of other ranks here, as long as there are enough.
    A list that the user has set stays as it is; an empty one is for no pinning. Returns whether there is a core for each thread.
    """
    if _MASK_IS_OURS:
        cores = sorted(os.sched_getaffinity(0))
        first = int(os.environ.get("LOCAL_RANK", "0")) * threads
        mask = ",".join(str(cores[(first + i) % len(cores)]) for i in range(threads))
        if os.environ.get(_MASK) != mask:
            os.environ[_MASK] = mask
    return len(list(filter(None, os.environ[_MASK].split(",")))) >= threads


def cut(decoded: TensorList, places: Places, *, crop: int, threads: int, pool: Executor) -> torch.Tensor:
    """The crops, uint8 [b, crop, crop, 3], from what `run` of the pipeline gave for these places.

    On the CPU the scaling is torch's: its kernel for bytes gives the pixels of Pillow's triangle filter in a third of the time
    that DALI's CPU operator takes. So many threads of `pool` share the images.
    """
    scaled = places.is_scaled()
    if isinstance(decoded, TensorListGPU) or not scaled.any():
        return torch.from_dlpack(decoded.as_tensor())
    first, factors = places.first.tolist(), (1 / places.step).tolist()
    crops = torch.empty(len(scaled), crop, crop, 3, dtype=torch.uint8)

    def scale(indices: Iterator[int]) -> None:
        for index in indices:
            region = torch.from_dlpack(decoded[index])
            if scaled[index]:
                # The region begins at the image's corner and the factors are those of the whole image, so the samples are too.
                (y, x), (by_y, by_x) = first[index], factors[index]
                # The batch comes first, so that torch sees that the planes are channels last and does not lay them out anew.
                planes = region[None].permute(0, 3, 1, 2)
                planes = torch.ops.aten._upsample_bilinear2d_aa(planes, [y + crop, x + crop], False, by_y, by_x)
                region = planes[0].permute(1, 2, 0)[y:, x:]
            crops[index] = region

    # One iterator for all: each thread takes the next image when it has done one.
    deque(pool.map(scale, [iter(range(len(scaled)))] * threads), maxlen=0)
    return crops


@pipeline_def
def _peek():  # type: ignore[no-untyped-def]  # DALI rewrites these functions
    return fn.peek_image_shape(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True))


def _for_cpu(places: Places, crop: int) -> tuple[np.ndarray, ...]:
    """What is decoded: of an image that is scaled all from its corner on, where torch's kernel begins, else the crop."""
    start, end = places.read(crop)
    start[places.is_scaled()] = 0
    return start.astype(np.int32), end.astype(np.int32)


@pipeline_def
def _decode_on_cpu(source, crop):  # type: ignore[no-untyped-def]
    encoded, start, end = fn.external_source(
        source, num_outputs=3, dtype=[types.UINT8, types.INT32, types.INT32], ndim=[1, 1, 1], no_copy=True
    )
    return fn.decoders.image_slice(encoded, start=start, end=end, axes=[0, 1], device="cpu", output_type=types.RGB)


def _for_gpu(places: Places, crop: int) -> tuple[np.ndarray, ...]:
    """What is decoded, where in it the crop begins and ends, and whether it is scaled."""
    start, end = places.read(crop)
    begin = places.first * places.step - start
    crops = (begin.astype(np.float32), (begin + crop * places.step).astype(np.float32))
    return start.astype(np.int32), end.astype(np.int32), *crops, places.is_scaled()


@pipeline_def(enable_conditionals=True)
def _decode_and_scale_on_gpu(source, crop):  # type: ignore[no-untyped-def]
    kinds = [types.UINT8, types.INT32, types.INT32, types.FLOAT, types.FLOAT, types.BOOL]
    encoded, start, end, roi_start, roi_end, scaled = fn.external_source(
        source, num_outputs=6, dtype=kinds, ndim=[1, 1, 1, 1, 1, 0], no_copy=True
    )
    pixels = fn.decoders.image_slice(encoded, start=start, end=end, axes=[0, 1], device="mixed", output_type=types.RGB)
    if scaled:
        pixels = fn.resize(pixels, size=[crop, crop], roi_start=roi_start, roi_end=roi_end)
    return pixels
