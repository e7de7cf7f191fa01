"""Whether DALI decodes a file: asked before an original is packed as it is, because in training a refusal ends the run."""

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline


class DaliCheck:
    """DALI's CPU decoder, one image at a time."""

    def __init__(self) -> None:
        self._pipeline: Pipeline | None = None

    def takes(self, encoded: bytes, width: int, height: int) -> bool:
        """Whether the file decodes to an image of this size."""
        if self._pipeline is None:
            self._pipeline = _decoder()
            self._pipeline.build()
        try:
            self._pipeline.feed_input("encoded", [np.frombuffer(encoded, np.uint8)])
            (images,) = self._pipeline.run()
            return tuple(images.shape()[0]) == (height, width, 3)
        except RuntimeError:
            self._pipeline = None  # a pipeline does not outlive an error
            return False


@pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
def _decoder():  # type: ignore[no-untyped-def]
    return fn.decoders.image(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1), output_type=types.RGB)
