"""Images of a split, cut as asked, as tensors: reading, the DALI pipeline, and who is to blame when it fails."""

import io
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from alexnet_dist.data.cutting import cut
from alexnet_dist.data.graph import Inputs, Sides, build_pipeline, tensors_of
from alexnet_dist.data.images import Images
from alexnet_dist.data.places import Places
from alexnet_dist.errors import UserError

# Files are read by so many threads at once, which mostly wait for the disk.
READERS = 8

Tag = TypeVar("Tag")


@dataclass(frozen=True)
class Cuts:
    """What is to be cut from b images: samples int64 [b]; offsets y, x [b] of the crop; mirror bool [b]."""

    samples: np.ndarray
    y: np.ndarray
    x: np.ndarray
    mirror: np.ndarray

    @classmethod
    def whole(cls, samples: np.ndarray) -> "Cuts":
        """The centre squares themselves."""
        zero = np.zeros(len(samples), np.int64)
        return cls(samples, zero, zero, zero.astype(bool))

    def offsets(self) -> np.ndarray:
        """(y, x) int64 [b, 2]."""
        return np.stack([self.y, self.x], axis=1)


def decode(
    images: Images,
    requests: Generator[tuple[Cuts, Tag], None, None],
    *,
    size: int,
    crop: int,
    batch_size: int,
    threads: int,
    device: torch.device,
) -> Generator[tuple[torch.Tensor, Tag], None, None]:
    """For each request of 1 to `batch_size` images: their crops, uint8 [b, crop, crop, 3] on `device`, and what came with it.

    Requests are taken PREFETCH ahead (and closed at the end), and the pipeline works on them while the caller has its turn.
    The pixels of a sample do not depend on `threads`, nor on what else is in its batch.

    Raises:
        UserError: an image cannot be read or decoded; it is named.
    """
    taken: deque[tuple[Cuts, Places, Tag]] = deque()
    sides_of = Sides(batch_size)

    with (
        closing(requests),
        ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers,
        ThreadPoolExecutor(threads, thread_name_prefix="cut") as cutters,
    ):

        def read(samples: list[int]) -> list[np.ndarray]:
            return [images.read(sample) for sample in samples]

        def source() -> Inputs:
            cuts, tag = next(requests)
            samples, share = cuts.samples.tolist(), -(-len(cuts.samples) // READERS)
            chunks = readers.map(read, [samples[first : first + share] for first in range(0, len(samples), share)])
            encoded = tensors_of([image for chunk in chunks for image in chunk])
            try:
                sides = sides_of(encoded)
            except RuntimeError as error:
                raise blame(images, [cuts], size, crop, error) from None
            places = Places.of(sides, cuts.offsets(), size)
            taken.append((cuts, places, tag))
            return encoded, places

        pipeline = build_pipeline(source, crop=crop, batch_size=batch_size, threads=threads, device_id=device.index)
        while True:
            try:
                (decoded,) = pipeline.run()
            except StopIteration:
                return
            except RuntimeError as error:
                raise blame(images, [cuts for cuts, _, _ in taken], size, crop, error) from None
            cuts, places, tag = taken.popleft()
            yield cut(decoded, places, cuts.mirror, crop=crop, threads=threads, pool=cutters), tag


def blame(images: Images, batches: list[Cuts], size: int, crop: int, error: RuntimeError) -> Exception:
    """The error to raise where a batch of these failed: the first image that fails alone, named; else the error itself."""
    for cuts in batches:
        offsets = cuts.offsets()
        for i, sample in enumerate(cuts.samples):
            encoded = images.read(int(sample))
            if not _decodes(encoded, offsets[i : i + 1], size, crop):
                return UserError(
                    f"{images.name(int(sample))} cannot be decoded ({_reason(encoded)}): replace it or remove it, "
                    "or pack the images with `python -m alexnet_dist.prepare`, which sorts such files out"
                )
    return error


def _decodes(encoded: np.ndarray, offset: np.ndarray, size: int, crop: int) -> bool:
    """Whether DALI takes this image; offset: (y, x) [1, 2] of the crop."""
    try:
        image = tensors_of([encoded])
        places = Places.of(Sides(1)(image), offset, size)
        build_pipeline(lambda: (image, places), crop=crop, batch_size=1, threads=1, device_id=None).run()
    except RuntimeError:
        return False
    return True


def _reason(encoded: np.ndarray) -> str:
    """What Pillow says of the bytes, which is plainer than DALI; where it takes them, what they are."""
    try:
        with Image.open(io.BytesIO(encoded.tobytes())) as image:
            image.load()
            return f"DALI does not take this {image.format} of mode {image.mode}"
    except Image.UnidentifiedImageError:
        return f"not an image, it begins with {encoded[:8].tobytes()!r}"
    except Exception as problem:  # what Pillow raises on damaged files is not a closed list
        return " ".join(str(problem).split())
