"""The DALI graphs: from encoded bytes and a crop to uint8 pixels, on the CPU or the GPU."""

import os
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.backend import TensorCPU, TensorListCPU
from nvidia.dali.pipeline import Pipeline

from alexnet_dist.data.cutting import load_cutter
from alexnet_dist.data.places import Places

PREFETCH = 2

# DALI's list of the cores that the threads of a pipeline are pinned to, and whether it is not the user's.
_MASK = "DALI_AFFINITY_MASK"
_MASK_IS_OURS = _MASK not in os.environ

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


@pipeline_def
def _peek():  # type: ignore[no-untyped-def]  # DALI rewrites these functions
    return fn.peek_image_shape(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True))


def _for_cpu(places: Places, crop: int) -> tuple[np.ndarray, ...]:
    """What is decoded: the region of the crop; where torch is to scale it, the whole image."""
    start, end = places.read(crop)
    if load_cutter() is None:
        scaled = places.is_scaled()
        start[scaled], end[scaled] = 0, places.sides[scaled]
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
