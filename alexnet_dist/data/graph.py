"""The DALI graph: from encoded bytes and a crop to uint8 pixels, on the CPU or the GPU."""

from collections.abc import Callable

import numpy as np
from nvidia.dali import fn, math, pipeline_def, types
from nvidia.dali.pipeline import Pipeline

# What the graph is given for a batch: the encoded images, and the crops' offsets (y, x) int32 [b, 2].
Inputs = tuple[list[np.ndarray], np.ndarray]

PREFETCH = 2


def build_pipeline(
    source: Callable[[], Inputs], *, size: int, crop: int, batch_size: int, threads: int, device_id: int | None
) -> Pipeline:
    """A pipeline whose only output is uint8 [b, crop, crop, 3]; it ends where `source` raises StopIteration.

    An image's shorter side is scaled to `size` pixels (triangle filter, antialiased), and of the centre size x size the
    crop at the given offset is taken (paper, section 2). An image whose shorter side is `size` is not
    resampled. EXIF orientation is honoured. With device_id None all is done on the CPU, else decoding and what follows are
    done on that GPU.

    `source` is called PREFETCH batches ahead. Its arrays are not copied: they must stay as they are until PREFETCH + 1
    more batches have come out.
    """
    pipeline = _graph(
        source,
        size,
        crop,
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=PREFETCH,
        exec_dynamic=True,
    )
    pipeline.build()
    return pipeline


@pipeline_def(enable_conditionals=True)
def _graph(source, size, crop):  # type: ignore[no-untyped-def]  # DALI rewrites this function
    encoded, offset = fn.external_source(source, num_outputs=2, dtype=[types.UINT8, types.INT32], ndim=[1, 1], no_copy=True)
    # Height and width, here and of the scaled image; where torchvision's Resize and CenterCrop put the centre square.
    sides = fn.peek_image_shape(encoded)[0:2]
    shorter = fn.reductions.min(sides)
    scaled = sides * size // shorter
    surplus = scaled - size
    corner = (surplus + (surplus // 2 & 1)) // 2

    # The crop in pixels of the file, and around it what the filter reaches: only that is decoded.
    step = fn.cast(sides, dtype=types.FLOAT) / scaled
    start = (corner + offset) * step
    end = (corner + offset + crop) * step
    reach = (step + 1.0) * (step != 1.0)
    first = fn.cast(math.clamp(math.floor(start - reach), 0, sides), dtype=types.INT32)
    last = fn.cast(math.clamp(math.ceil(end + reach), 0, sides), dtype=types.INT32)
    pixels = fn.decoders.image_slice(encoded, start=first, end=last, axes=[0, 1], device=_decoder_device(), output_type=types.RGB)
    if shorter != size:
        pixels = fn.resize(pixels, size=[crop, crop], roi_start=start - first, roi_end=end - first)
    return pixels


def _decoder_device() -> str:
    return "cpu" if Pipeline.current().device_id is None else "mixed"
