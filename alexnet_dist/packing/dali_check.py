"""Whether DALI decodes a file: asked before an original is packed as it is, because in training a refusal ends the run."""

from functools import cache

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline


def dali_takes(encoded: bytes, width: int, height: int) -> bool:
    """Whether DALI's CPU decoder makes an image of this size of the file."""
    decoder = _decoder()
    try:
        decoder.feed_input("encoded", [np.frombuffer(encoded, np.uint8)])
        (images,) = decoder.run()
        return tuple(images.shape()[0]) == (height, width, 3)
    except RuntimeError:
        _decoder.cache_clear()  # a pipeline does not outlive an error
        return False


@cache
def _decoder() -> Pipeline:
    pipeline = _graph()
    pipeline.build()
    return pipeline


@pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
def _graph():  # type: ignore[no-untyped-def]
    return fn.decoders.image(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1), output_type=types.RGB)
