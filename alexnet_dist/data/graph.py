"""The DALI graph: from encoded bytes and a crop to uint8 pixels, the same on the CPU and on the GPU."""

import weakref
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.backend import TensorCPU, TensorListCPU
from nvidia.dali.pipeline import Pipeline

from alexnet_dist.data.places import Places
from alexnet_dist.parallel.pinning import name_cores

PREFETCH = 2

# What `build_pipeline`'s source gives for a batch: the encoded images, and where their crops lie.
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


def build_pipeline(
    source: Callable[[], Inputs],
    *,
    crop: int,
    scales: bool,
    batch_size: int,
    threads: int,
    device_id: int | None,
    options: Mapping[str, float],
) -> Pipeline:
    """A pipeline of uint8 [crop, crop, 3] for each image, that ends where `source` raises StopIteration.

    Of an image the region of its crop is decoded, upright as EXIF has it, and scaled (triangle filter, antialiased). An image
    that need not be scaled is not resampled; where none is (`scales` false), the decoder's pixels are not even copied. With
    device_id None all is done on the CPU, else on that GPU.

    `source` is called PREFETCH batches ahead. Its arrays are not copied.

    On the CPU each thread is pinned to a core. Left to the scheduler, one waits behind a thread of Python's while another core
    has nothing to do, and all wait for it at the end of a batch.
    """
    held: deque[tuple[TensorListCPU | np.ndarray, ...]] = deque(maxlen=2 * PREFETCH + 2)

    def inputs() -> tuple[TensorListCPU | np.ndarray, ...]:
        encoded, places = source()
        start, end = places.read(crop)
        given = [start.astype(np.int32), end.astype(np.int32)]
        if scales:
            begin = places.first * places.step - start  # of the crop in the region
            finish = begin + crop * places.step
            given += [places.is_scaled(), begin.astype(np.float32), finish.astype(np.float32)]
        held.append((encoded, *given))
        return held[-1]

    # DALI's operators hold the function that they are given in a cycle. It would keep what it reads from until Python looks for
    # cycles, hours later: so they get a weak reference, and the function lives as long as the pipeline.
    pipeline = _crops(
        weakref.proxy(inputs),
        crop,
        scales,
        "cpu" if device_id is None else "mixed",
        options,
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


def convert() -> None:
    """Have DALI convert the graph's condition, which takes it 0.1 s when the graph is first defined, once for all processes that
    are forked from this one."""
    _crops(lambda: (), 1, True, "cpu", {}, batch_size=1, num_threads=1, device_id=None)


@pipeline_def
def _peek():  # type: ignore[no-untyped-def]  # DALI rewrites these functions
    return fn.peek_image_shape(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True))


@pipeline_def(enable_conditionals=True)
def _crops(source, crop, scales, device, options):  # type: ignore[no-untyped-def]
    count = 6 if scales else 3
    kinds = [types.UINT8, types.INT32, types.INT32, types.BOOL, types.FLOAT, types.FLOAT][:count]
    encoded, start, end, *scaling = fn.external_source(
        source, num_outputs=count, dtype=kinds, ndim=[1, 1, 1, 0, 1, 1][:count], no_copy=True
    )
    # Chroma is brought to full size as on the CPU; the GPU's own way gives other pixels.
    pixels = fn.decoders.image_slice(
        encoded,
        start=start,
        end=end,
        axes=[0, 1],
        device=device,
        output_type=types.RGB,
        jpeg_fancy_upsampling=True,
        **options,
    )
    if not scales:
        return pixels
    scaled, begin, finish = scaling
    if scaled:
        pixels = fn.resize(pixels, size=[crop, crop], roi_start=begin, roi_end=finish)
    return pixels
