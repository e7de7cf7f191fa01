"""Batches on their way to the consumer: packed, copied to the device, exchanged between the processes of a replica."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch

from alexnet_dist.data.bad_image import BadImage
from alexnet_dist.parallel.process import stream_for

# Begins to exchange uint8 [n, H, W, C] of every process of a replica; what it returns waits for them and gives
# [parts * n, H, W, C], in the order of the parts.
Exchange = Callable[[torch.Tensor], Callable[[], torch.Tensor]]

Item = TypeVar("Item", bound="Batch | ValidationBatch")

# The samples of a batch that is only computed with.
NOT_KNOWN = np.empty(0, np.int64)

# What is wrong with the batch after the next is known when the next is asked for: so long it takes the ranks to agree on it.
LOOKAHEAD = 2

# The dtypes of what is packed of a batch, and their bytes an image: labels, y, x, colour, mirror. Wide ones before narrow ones.
_PACKED = ((torch.int64, 8), (torch.int64, 8), (torch.int64, 8), (torch.float32, 12), (torch.bool, 1))
PACKED_BYTES = sum(size for _, size in _PACKED)


@dataclass(frozen=True)
class Batch:
    """A replica's b images of one step, on the device.

    epoch, index: which batch of which epoch. samples: int64 [b], NumPy. pixels: uint8 [b, 3, crop, crop], channels last in
    memory, not mirrored yet. labels: int64 [b]. What was drawn for each image (data/sampling.py): offsets y, x int64 [b], mirror
    bool [b], colour float32 [b, 3]. packed: what is not pixels in one piece, uint8, of which they are views. bad: an image for
    which this process could not make its part; nothing else of the batch means anything then.
    """

    epoch: int
    index: int
    samples: np.ndarray
    pixels: torch.Tensor
    packed: torch.Tensor
    labels: torch.Tensor
    y: torch.Tensor
    x: torch.Tensor
    mirror: torch.Tensor
    colour: torch.Tensor
    bad: BadImage | None = None

    @classmethod
    def of(cls, epoch: int, index: int, samples: np.ndarray, pixels: torch.Tensor, packed: torch.Tensor) -> "Batch":
        """With the fields that are packed."""
        images = len(packed) // PACKED_BYTES
        parts = packed.split([images * size for _, size in _PACKED])
        labels, y, x, colour, mirror = (part.view(kind) for part, (kind, _) in zip(parts, _PACKED, strict=True))
        return cls(epoch, index, samples, pixels, packed, labels, y, x, mirror, colour.view(images, 3))

    def slices(self, count: int) -> "list[Batch]":
        """Its images in so many runs of equal length, in their order."""
        length = len(self.labels) // count
        rows = [slice(first, first + length) for first in range(0, length * count, length)]
        named = ("samples", "pixels", "labels", "y", "x", "mirror", "colour")
        return [replace(self, **{name: getattr(self, name)[part] for name in named}) for part in rows]


@dataclass(frozen=True)
class ValidationBatch:
    """As `Batch`; `bad` may be one of an earlier batch."""

    pixels: torch.Tensor
    labels: torch.Tensor
    samples: torch.Tensor
    bad: BadImage | None = None


def pack(*arrays: np.ndarray, device: torch.device) -> torch.Tensor:
    """The bytes of the arrays one after another, uint8, copied to the device at once."""
    whole = torch.from_numpy(np.concatenate([np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays]))
    return whole.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else whole


class Exchanged(Generic[Item]):
    """The batches, channels first, with the pixels of all parts. On a GPU the exchange has a stream of its own, in which it does
    not wait for the consumer's.

    A batch is handed out when the exchange of the LOOKAHEAD next ones has begun; `begun` are those.
    """

    def __init__(self, batches: Iterator[Item], exchange: Exchange | None, device: torch.device) -> None:
        self._batches, self._exchange = batches, exchange
        self._stream = stream_for("exchange", device) if exchange and device.type == "cuda" else None
        self.begun: deque[tuple[Item, Callable[[], torch.Tensor] | None]] = deque()

    def begin(self, count: int = LOOKAHEAD) -> None:
        """Begin until there are so many, or none is left."""
        while len(self.begun) < count and (batch := next(self._batches, None)) is not None:
            with torch.cuda.stream(self._stream) if self._stream else nullcontext():
                self.begun.append((batch, self._exchange(batch.pixels) if self._exchange else None))

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        self.begin(LOOKAHEAD + 1)
        if not self.begun:
            raise StopIteration
        return _taken(*self.begun.popleft())


def _taken(batch: Item, exchanged: Callable[[], torch.Tensor] | None) -> Item:
    pixels = exchanged() if exchanged else batch.pixels
    for tensor in (pixels, *vars(batch).values()):
        if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
            # Made in the feed's streams, read in this one: their allocator is to know.
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return replace(batch, pixels=pixels.permute(0, 3, 1, 2))


def on_device(items: Generator[Item, None, None], device: torch.device) -> Generator[Item, None, None]:
    """Runs a generator on a CUDA stream of its own; each item is complete when it comes out."""
    if device.type != "cuda":
        yield from items
        return
    stream = stream_for("feed", device)
    with closing(items):
        while True:
            with torch.cuda.device(device), torch.cuda.stream(stream):
                item = next(items, None)
            stream.synchronize()
            if item is None:
                return
            yield item
