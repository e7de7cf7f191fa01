"""The feeds: endless training batches and passes over a validation set, decoded ahead in the background.

Both part a batch into the rows of each replica and those into the parts that the processes of a replica decode; `exchange` puts
the parts together again, the same on every process of the replica. A thread decodes; it is the consumer's that calls `exchange`,
for the next batches before it is handed one, so that a process's messages come from one thread, in an order that follows from the
batches it has taken. All processes must take the same number of them. A process that meets a bad image goes on with batches of
nothing, so that the others need not wait for its messages, until all have agreed what to do.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from alexnet_dist.data.background import Background
from alexnet_dist.data.bad_image import BadImage, BadImageError
from alexnet_dist.data.batch import (
    NOT_KNOWN,
    PACKED_BYTES,
    Batch,
    Exchange,
    Exchanged,
    ValidationBatch,
    on_device,
    pack,
)
from alexnet_dist.data.decode import NO_OPTIONS, Crops, DecoderOptions, decode
from alexnet_dist.data.images import Images
from alexnet_dist.data.sampling import Draws, at_positions, draws, epoch_order
from alexnet_dist.errors import UserError

# Batches that are decoded and on the device before the consumer asks for them.
AHEAD = 2


_Step = tuple[int, int, np.ndarray, Draws]  # epoch, index, samples, and what is drawn for them


class TrainFeed:
    """An endless iterator of Batch, epoch after epoch, starting at `start` = (epoch, index).

    An epoch takes `count // batch_size` batches of `batch_size` images over all replicas; what remains waits for another
    epoch's order. Replica r of R has rows [r B/R, (r+1) B/R) of each; part p of P decodes its P-th of them. The batches depend on
    seed, epoch and index alone, and on `left_out`, the samples that are replaced by the next in the order.
    """

    def __init__(
        self,
        images: Images,
        *,
        seed: int,
        batch_size: int,
        size: int,
        crop: int,
        mirror: bool,
        threads: int,
        device: torch.device,
        replica: int = 0,
        replicas: int = 1,
        part: int = 0,
        parts: int = 1,
        exchange: Exchange | None = None,
        start: tuple[int, int] = (0, 0),
        left_out: Sequence[int] = (),
        decoder_options: DecoderOptions = NO_OPTIONS,
    ) -> None:
        """Raises UserError where there are fewer images than a batch has, or where replicas and parts do not divide it."""
        if batch_size % (replicas * parts):
            raise UserError(
                f"a batch of {batch_size} images cannot be split over {replicas} replicas of {parts} processes: "
                f"set trainer.batch_size to a multiple of {replicas * parts}"
            )
        check_fills_a_batch(images, batch_size)
        self.batches_per_epoch = len(images) // batch_size
        self._images = images
        self._seed = seed
        self._batch_size = batch_size
        self._rows = np.arange(batch_size)[_rows(batch_size // replicas, replica)]
        self._part_rows = _rows(batch_size // replicas // parts, part)
        self._left_out = tuple(left_out)
        self._crop = crop
        self._positions = size - crop + 1
        self._mirror = mirror
        self._device = device
        self._exchange = exchange
        decoded = decode(
            images,
            self._requests(*start),
            size=size,
            crop=crop,
            batch_size=batch_size // replicas // parts,
            threads=threads,
            device=device,
            options=decoder_options,
        )
        self._background = Background(on_device(self._batches(decoded), device), ahead=AHEAD, name="train feed")
        self._exchanged = Exchanged(self._background, exchange, device)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Raises BadImageError where this process could not make its part."""
        batch = next(self._exchanged)
        if batch.bad:
            raise BadImageError(batch.bad)
        return batch

    def bad_image(self) -> BadImage | None:
        """The first that this process has met in the next LOOKAHEAD batches."""
        self._exchanged.begin()
        return next((batch.bad for batch, _ in self._exchanged.begun if batch.bad), None)

    def close(self) -> None:
        """End the feed's threads. The exchange that was begun last is left to itself."""
        self._background.close()

    def _requests(self, epoch: int, index: int) -> Generator[tuple[Crops, _Step], None, None]:
        """What this process decodes, and the step it is part of."""
        part = self._part_rows
        while True:
            samples = epoch_order(self._seed, epoch, len(self._images))
            while index < self.batches_per_epoch:
                own = at_positions(samples, index * self._batch_size + self._rows, self._left_out)
                drawn = draws(self._seed, epoch, own, self._positions, self._mirror)
                yield Crops(own[part], np.stack([drawn.y, drawn.x], axis=1)[part]), (epoch, index, own, drawn)
                index += 1
            epoch, index = epoch + 1, 0

    def _batches(self, decoded: Generator[tuple[torch.Tensor, _Step], None, None]) -> Generator[Batch, None, None]:
        try:
            with closing(decoded):
                for pixels, (epoch, index, samples, drawn) in decoded:
                    packed = pack(self._images.labels[samples], drawn.y, drawn.x, drawn.colour, drawn.mirror, device=self._device)
                    yield Batch.of(epoch, index, samples, pixels, packed)
        except BadImageError as error:
            packed = torch.zeros(len(self._rows) * PACKED_BYTES, dtype=torch.uint8, device=self._device)
            pixels = _black(len(self._rows[self._part_rows]), self._crop, self._device)
            while True:
                yield replace(Batch.of(0, 0, NOT_KNOWN, pixels, packed), bad=error.bad)


class ValidationFeed:
    """Each iteration is one pass over a split: (pixels uint8 [b, 3, size, size], labels int64 [b], samples int64 [b]).

    Every image is in exactly one batch of exactly one replica. All replicas yield len(feed) batches of the same shape; rows
    that pad them have label and sample -1 and black pixels. b is batch_size / replicas, rounded up to a multiple of `parts`; of
    fewer images than a batch has, their number is the batch's.
    Pixels are channels last in memory. A pass in which this process has met a bad image ends with a BadImageError.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        size: int,
        threads: int,
        device: torch.device,
        replica: int = 0,
        replicas: int = 1,
        part: int = 0,
        parts: int = 1,
        exchange: Exchange | None = None,
        decoder_options: DecoderOptions = NO_OPTIONS,
    ) -> None:
        self._images = images
        self._part_size = part_size = -(-min(batch_size, max(1, len(images))) // (replicas * parts))
        replica_size = self._part_size * parts
        self._whole_size = replica_size * replicas
        self._rows = _rows(replica_size, replica)
        self._part_rows = _rows(self._part_size, part)
        self._size = size
        self._device = device
        self._exchange = exchange
        self._decode = partial(
            decode, images, size=size, crop=size, batch_size=part_size, threads=threads, device=device, options=decoder_options
        )

    def __len__(self) -> int:
        """Batches of a pass."""
        return -(-len(self._images) // self._whole_size)

    def __iter__(self) -> Generator[tuple[torch.Tensor, torch.Tensor, torch.Tensor], None, None]:
        background = Background(on_device(self._batches(), self._device), ahead=AHEAD, name="validation feed")
        bad = None
        with closing(background):
            for batch in Exchanged(background, self._exchange, self._device):
                bad = batch.bad
                yield batch.pixels, batch.labels, batch.samples
        if bad:
            raise BadImageError(bad)

    def _samples(self) -> Iterator[np.ndarray]:
        """The replica's samples of each batch, -1 for padding: int64 [b]."""
        for first in range(0, len(self) * self._whole_size, self._whole_size):
            samples = np.arange(first, first + self._whole_size)[self._rows]
            yield np.where(samples < len(self._images), samples, -1)

    def _requests(self) -> Generator[tuple[Crops, None], None, None]:
        for samples in self._samples():
            own = samples[self._part_rows]
            if own[0] >= 0:
                yield Crops.whole(own[own >= 0]), None

    def _batches(self) -> Generator[ValidationBatch, None, None]:
        bad = None
        with closing(self._decode(self._requests())) as decoded:
            for samples in self._samples():
                real = int((samples[self._part_rows] >= 0).sum())
                pixels = None
                try:
                    pixels = next(decoded)[0] if real and not bad else None
                except BadImageError as error:
                    bad = error.bad
                if pixels is None or len(pixels) < self._part_size:
                    whole = _black(self._part_size, self._size, self._device)
                    if pixels is not None:
                        whole[:real] = pixels
                    pixels = whole
                named = np.where(samples >= 0, self._images.labels[samples], -1)
                labels, places = pack(named, samples, device=self._device).view(torch.int64).chunk(2)
                yield ValidationBatch(pixels, labels, places, bad)


def _black(count: int, side: int, device: torch.device) -> torch.Tensor:
    return torch.zeros(count, side, side, 3, dtype=torch.uint8, device=device)


def check_fills_a_batch(images: Images, batch_size: int) -> None:
    """Raises UserError where there are fewer images than a batch has."""
    if len(images) < batch_size:
        raise UserError(
            f"there are {len(images)} training images, fewer than a batch of {batch_size}: "
            f"set trainer.batch_size to {len(images)} or less"
        )


def _rows(count: int, number: int) -> slice:
    return slice(number * count, (number + 1) * count)
