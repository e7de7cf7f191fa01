"""The DALI graph: from encoded bytes and a crop to uint8 pixels, on the CPU or the GPU."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np
import torch
from nvidia.dali import fn, math, pipeline_def, types
from nvidia.dali.backend import TensorListCPU, TensorListGPU
from nvidia.dali.pipeline import Pipeline

TensorList = TensorListCPU | TensorListGPU

# What the graph is given for a batch: the encoded images, and the crops' offsets (y, x) int32 [b, 2].
Inputs = tuple[list[np.ndarray], np.ndarray]

PREFETCH = 2


def build_pipeline(
    source: Callable[[], Inputs], *, size: int, crop: int, batch_size: int, threads: int, device_id: int | None
) -> Pipeline:
    """A pipeline that ends where `source` raises StopIteration; what it gives is for `cut` to finish.

    An image's shorter side is scaled to `size` pixels (triangle filter, antialiased), and of the centre size x size the
    crop at the given offset is taken (paper, section 2). An image whose shorter side is `size` is not
    resampled. EXIF orientation is honoured. With device_id None all is done on the CPU, else decoding and what follows are
    done on that GPU.

    `source` is called PREFETCH batches ahead. Its arrays are not copied: they must stay as they are until PREFETCH + 1
    more batches have come out.
    """
    graph = _decode_on_cpu if device_id is None else _decode_and_scale_on_gpu
    pipeline = graph(
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


def cut(outputs: Sequence[TensorList], offset: np.ndarray, *, size: int, crop: int, pool: Executor) -> torch.Tensor:
    """The crops, uint8 [b, crop, crop, 3], from what `run` of the pipeline gave and the offsets that it was given.

    On the CPU the scaling is torch's: its kernel for bytes gives the pixels of Pillow's triangle filter in a third of the time
    that DALI's CPU operator takes. The threads of `pool` share the images.
    """
    regions = outputs[0]
    if isinstance(regions, TensorListGPU):
        return torch.from_dlpack(regions.as_tensor())
    sides = np.asarray(outputs[1].as_tensor()).astype(np.int64)
    if np.all(sides.min(axis=1) == size):
        return torch.from_dlpack(regions.as_tensor())
    scaled = sides * size // sides.min(axis=1, keepdims=True)
    first = _corner(scaled - size) + offset
    crops = torch.empty(len(sides), crop, crop, 3, dtype=torch.uint8)

    def scale(index: int) -> None:
        region = torch.from_dlpack(regions[index])
        if sides[index].min() != size:
            # The region begins at the image's corner and the factors are those of the whole image, so the samples are too.
            y, x = first[index].tolist()
            factors = (scaled[index] / sides[index]).tolist()
            planes = region.permute(2, 0, 1)[None]
            planes = torch.ops.aten._upsample_bilinear2d_aa(planes, [y + crop, x + crop], False, *factors)
            region = planes[0].permute(1, 2, 0)[y:, x:]
        crops[index] = region

    deque(pool.map(scale, range(len(sides))), maxlen=0)
    return crops


@pipeline_def
def _decode_on_cpu(source, size, crop):  # type: ignore[no-untyped-def]  # DALI rewrites this function
    """The crop where nothing is scaled, else all from the image's corner to where the crop ends; and the image's sides."""
    encoded, offset = _inputs(source)
    sides, start, last = _region(encoded, offset, size, crop)
    first = fn.cast(start, dtype=types.INT32) * (fn.reductions.min(sides) == size)
    pixels = fn.decoders.image_slice(encoded, start=first, end=last, axes=[0, 1], device="cpu", output_type=types.RGB)
    return pixels, sides


@pipeline_def(enable_conditionals=True)
def _decode_and_scale_on_gpu(source, size, crop):  # type: ignore[no-untyped-def]
    """The crops."""
    encoded, offset = _inputs(source)
    sides, start, last = _region(encoded, offset, size, crop)
    step = fn.cast(sides, dtype=types.FLOAT) / _scaled(sides, size)
    reach = (step + 1.0) * (step != 1.0)
    first = fn.cast(math.clamp(math.floor(start - reach), 0, sides), dtype=types.INT32)
    pixels = fn.decoders.image_slice(encoded, start=first, end=last, axes=[0, 1], device="mixed", output_type=types.RGB)
    if fn.reductions.min(sides) != size:
        pixels = fn.resize(pixels, size=[crop, crop], roi_start=start - first, roi_end=start - first + crop * step)
    return pixels


def _inputs(source):  # type: ignore[no-untyped-def]
    return fn.external_source(source, num_outputs=2, dtype=[types.UINT8, types.INT32], ndim=[1, 1], no_copy=True)


def _region(encoded, offset, size, crop):  # type: ignore[no-untyped-def]
    """The whole image's sides, where the crop begins, and where ends what the filter reaches: in pixels of the file."""
    sides = fn.peek_image_shape(encoded)[0:2]
    scaled = _scaled(sides, size)
    step = fn.cast(sides, dtype=types.FLOAT) / scaled
    start = (_corner(scaled - size) + offset) * step
    end = start + crop * step
    reach = (step + 1.0) * (step != 1.0)
    return sides, start, fn.cast(math.clamp(math.ceil(end + reach), 0, sides), dtype=types.INT32)


def _scaled(sides, size):  # type: ignore[no-untyped-def]
    return sides * size // fn.reductions.min(sides)


def _corner(surplus):  # type: ignore[no-untyped-def]
    """Where torchvision's Resize and CenterCrop put the centre square."""
    return (surplus + (surplus // 2 & 1)) // 2
