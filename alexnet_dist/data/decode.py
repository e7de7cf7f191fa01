"""Crops of a split's images, as tensors: reading, the DALI pipeline, and who is to blame when it fails."""

from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from alexnet_dist.data.bad_image import BadImage, BadImageError
from alexnet_dist.data.images import Images
from alexnet_dist.data.odd_files import UnusableImageError, check_sides, for_decoder
from alexnet_dist.data.odd_files import decode as decode_file
from alexnet_dist.data.places import Places
from alexnet_dist.errors import UserError

if TYPE_CHECKING:
    from alexnet_dist.data.graph import Inputs

# Further arguments of DALI's decoder by their names, such as hw_decoder_load: how a GPU decodes, not what.
DecoderOptions = Mapping[str, float]
NO_OPTIONS: DecoderOptions = {}

# Files are read by so many threads at once, which mostly wait for the disk.
READERS = 8

Tag = TypeVar("Tag")


@dataclass(frozen=True)
class Crops:
    """What is asked of b images: samples int64 [b]; offsets int64 [b, 2], (y, x) of the crop in the centre square."""

    samples: np.ndarray
    offsets: np.ndarray

    @classmethod
    def whole(cls, samples: np.ndarray) -> "Crops":
        """The centre squares themselves."""
        return cls(samples, np.zeros((len(samples), 2), np.int64))


def decode(
    images: Images,
    requests: Generator[tuple[Crops, Tag], None, None],
    *,
    size: int,
    crop: int,
    batch_size: int,
    threads: int,
    device: torch.device,
    options: DecoderOptions = NO_OPTIONS,
) -> Generator[tuple[torch.Tensor, Tag], None, None]:
    """For each request of 1 to `batch_size` images: their crops, uint8 [b, crop, crop, 3] on `device`, and what came with it.

    Requests are taken PREFETCH ahead (and closed at the end), and the pipeline works on them while the caller has its turn.
    The pixels of a sample do not depend on `threads`, nor on what else is in its batch.

    Raises BadImageError: an image cannot be read or decoded.
    """
    from alexnet_dist.data.graph import Sides, build_pipeline, tensors_of  # not at the top: it imports DALI

    taken: deque[tuple[Crops, Tag]] = deque()
    failed: list[Exception] = []
    sides_of = Sides(batch_size) if images.side is None else None

    with closing(requests), ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:

        def read(samples: list[int]) -> list[np.ndarray]:
            return [_read(images, sample) for sample in samples]

        def source() -> "Inputs":
            crops, tag = next(requests)
            samples, share = crops.samples.tolist(), -(-len(crops.samples) // READERS)
            chunks = readers.map(read, [samples[first : first + share] for first in range(0, len(samples), share)])
            try:
                encoded = tensors_of([image for chunk in chunks for image in chunk])
                sides = sides_of(encoded) if sides_of else np.full((len(samples), 2), images.side)
                _check_sides(images, samples, sides)
            except (BadImageError, RuntimeError) as error:
                failed.append(blame(images, [crops], size, crop, error) if isinstance(error, RuntimeError) else error)
                raise StopIteration from None  # when the requests before have been answered
            taken.append((crops, tag))
            return encoded, Places.of(sides, crops.offsets, size)

        pipeline = build_pipeline(
            source,
            crop=crop,
            scales=images.side != size,
            batch_size=batch_size,
            threads=threads,
            device_id=device.index,
            options=options,
        )
        while True:
            try:
                (decoded,) = pipeline.run()
            except StopIteration:
                if failed:
                    raise failed[0] from None
                return
            except RuntimeError as error:
                raise blame(images, [crops for crops, _ in taken], size, crop, error) from None
            pixels = torch.from_dlpack(decoded.as_tensor())
            if pixels.is_cuda:
                # Into torch's memory, whose allocator knows the streams that use it. DALI knows none of them and takes its own
                # memory back: the copy has to be done by then.
                pixels = pixels.clone()
                torch.cuda.current_stream(pixels.device).synchronize()
            yield pixels, taken.popleft()[1]


def _check_sides(images: Images, samples: list[int], sides: np.ndarray) -> None:
    for sample, (height, width) in zip(samples, sides.tolist(), strict=True):
        try:
            check_sides(width, height)
        except UnusableImageError as reason:
            raise BadImageError(BadImage.undecodable(sample, images.name(sample), str(reason))) from None


def _read(images: Images, sample: int) -> np.ndarray:
    try:
        return for_decoder(images.read(sample))
    except UnusableImageError as reason:
        raise BadImageError(BadImage.undecodable(sample, images.name(sample), str(reason))) from None
    except UserError as error:
        raise BadImageError(BadImage(sample, images.name(sample), "cannot be read", str(error))) from None


def blame(images: Images, batches: list[Crops], size: int, crop: int, error: RuntimeError) -> Exception:
    """The error to raise where a batch of these failed: the first image that fails alone, named; else the error itself."""
    for crops in batches:
        for i, sample in enumerate(crops.samples.tolist()):
            encoded = _read(images, sample)
            if not _decodes(encoded, crops.offsets[i : i + 1], size, crop):
                return BadImageError(BadImage.undecodable(sample, images.name(sample), _reason(encoded)))
    return error


def _decodes(encoded: np.ndarray, offset: np.ndarray, size: int, crop: int) -> bool:
    """Whether DALI takes this image; offset: (y, x) [1, 2] of the crop."""
    from alexnet_dist.data.graph import Sides, build_pipeline, tensors_of

    try:
        image = tensors_of([encoded])
        inputs = image, Places.of(Sides(1)(image), offset, size)
        build_pipeline(lambda: inputs, crop=crop, scales=True, batch_size=1, threads=1, device_id=None, options=NO_OPTIONS).run()
    except RuntimeError:
        return False
    return True


def _reason(encoded: np.ndarray) -> str:
    """What Pillow says of a JPEG that DALI does not take, which is plainer than DALI."""
    try:
        image, _ = decode_file(encoded.tobytes())
    except UnusableImageError as reason:
        return str(reason)
    return f"DALI does not take this JPEG of {image.width} x {image.height} pixels"
