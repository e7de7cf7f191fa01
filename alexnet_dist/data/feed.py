"""The feeds: endless training batches and passes over a validation set, decoded ahead in the background.

Both part a batch into the rows of each replica and those into the parts that the processes of a replica decode; `exchange` puts
the parts together again, the same on every process of the replica.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from alexnet_dist.data.background import Background
from alexnet_dist.data.decode import Crops, decode
from alexnet_dist.data.graph import NO_OPTIONS, DecoderOptions
from alexnet_dist.data.images import Images
from alexnet_dist.data.sampling import Draws, draws, epoch_order
from alexnet_dist.errors import UserError

# uint8 [n, H, W, C] of every process of a replica -> [parts * n, H, W, C], in the order of the parts.
Exchange = Callable[[torch.Tensor], torch.Tensor]

Item = TypeVar("Item")

# Batches that are complete, exchanged and on the device before the consumer asks for them.
AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """A replica's b images of one step, on the device.

    epoch, index: which batch of which epoch. samples: int64 [b], NumPy. pixels: uint8 [b, 3, crop, crop], channels last in
    memory. labels: int64 [b]. What was drawn for each image (data/sampling.py): offsets y, x int64 [b], mirror bool [b], colour
    float32 [b, 3].
    """

    epoch: int
    index: int
    samples: np.ndarray
    pixels: torch.Tensor
    labels: torch.Tensor
    y: torch.Tensor
    x: torch.Tensor
    mirror: torch.Tensor
    colour: torch.Tensor


@dataclass(frozen=True)
class _Step:
    epoch: int
    index: int
    samples: np.ndarray
    drawn: Draws


class TrainFeed:
    """An endless iterator of Batch, epoch after epoch, starting at `start` = (epoch, index).

    An epoch takes `count // batch_size` batches of `batch_size` images over all replicas; what remains waits for another
    epoch's order. Replica r of R has rows [r B/R, (r+1) B/R) of each; part p of P decodes its P-th of them. The batches depend on
    seed, epoch and index alone.

    `exchange` is called from the feed's thread, up to AHEAD batches before the consumer. Its collectives need a process
    group that nothing else uses. All processes must take the same number of batches before they close.
    """

    def __init__(
        self,
        images: Images,
        *,
        seed: int,
        batch_size: int,
        replica: int,
        replicas: int,
        part: int,
        parts: int,
        size: int,
        crop: int,
        mirror: bool,
        threads: int,
        device: torch.device,
        exchange: Exchange | None,
        start: tuple[int, int] = (0, 0),
        decoder_options: DecoderOptions = NO_OPTIONS,
    ) -> None:
        """Raises UserError where there are fewer images than a batch has, or where replicas and parts do not divide it."""
        if batch_size % (replicas * parts):
            raise UserError(
                f"a batch of {batch_size} images cannot be split over {replicas} replicas of {parts} processes: "
                f"set trainer.batch_size to a multiple of {replicas * parts}"
            )
        if len(images) < batch_size:
            raise UserError(
                f"there are {len(images)} training images, fewer than a batch of {batch_size}: "
                f"set trainer.batch_size to {len(images)} or less"
            )
        if (exchange is None) != (parts == 1):
            raise ValueError("an exchange is needed where there are parts, and only there")
        self.batches_per_epoch = len(images) // batch_size
        self._images = images
        self._seed = seed
        self._batch_size = batch_size
        self._rows = _rows(batch_size // replicas, replica)
        self._part_rows = _rows(batch_size // replicas // parts, part)
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
        self._background = Background(
            _on_device(self._batches(decoded), device), ahead=AHEAD, finish_begun=exchange is not None, name="train feed"
        )

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._background)
        _keep_for_current_stream(batch.pixels, batch.labels, batch.y, batch.x, batch.mirror, batch.colour)
        return batch

    def __enter__(self) -> "TrainFeed":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error the thread is left to the end of the process: the peer that it exchanges with may never answer.
        if kind is None:
            self.close()

    def close(self) -> None:
        """End the feed's threads. Where there is an exchange, it first makes the batches that the other processes make too."""
        self._background.close()

    def _requests(self, epoch: int, index: int) -> Generator[tuple[Crops, _Step], None, None]:
        """What this process decodes, and the step it is part of; the next epoch's order is computed during this one."""
        with ThreadPoolExecutor(1, thread_name_prefix="epoch order") as executor:
            order = executor.submit(epoch_order, self._seed, epoch, len(self._images))
            while True:
                samples = order.result()
                order = executor.submit(epoch_order, self._seed, epoch + 1, len(self._images))
                while index < self.batches_per_epoch:
                    own = samples[index * self._batch_size :][self._rows]
                    drawn = draws(self._seed, epoch, own, self._positions, self._mirror)
                    part = self._part_rows
                    yield Crops(own[part], drawn.y[part], drawn.x[part], drawn.mirror[part]), _Step(epoch, index, own, drawn)
                    index += 1
                epoch, index = epoch + 1, 0

    def _batches(self, decoded: Generator[tuple[torch.Tensor, _Step], None, None]) -> Generator[Batch, None, None]:
        to = self._to_device
        with closing(decoded):
            for pixels, step in decoded:
                yield Batch(
                    epoch=step.epoch,
                    index=step.index,
                    samples=step.samples,
                    pixels=_channels_first(self._exchange(pixels) if self._exchange else pixels),
                    labels=to(self._images.labels[step.samples]),
                    y=to(step.drawn.y),
                    x=to(step.drawn.x),
                    mirror=to(step.drawn.mirror),
                    colour=to(step.drawn.colour),
                )

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


class ValidationFeed:
    """Each iteration is one pass over a split: (pixels uint8 [b, 3, size, size], labels int64 [b], samples int64 [b]).

    Every image is in exactly one batch of exactly one replica. All replicas yield len(feed) batches of the same shape; rows
    that pad them have label and sample -1 and black pixels. b is batch_size / replicas, rounded up to a multiple of `parts`.
    Pixels are channels last in memory.

    As in TrainFeed, `exchange` runs in a thread and needs a process group that nothing else uses, the training feed included.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        replica: int,
        replicas: int,
        part: int,
        parts: int,
        size: int,
        threads: int,
        device: torch.device,
        exchange: Exchange | None,
        decoder_options: DecoderOptions = NO_OPTIONS,
    ) -> None:
        if (exchange is None) != (parts == 1):
            raise ValueError("an exchange is needed where there are parts, and only there")
        self._images = images
        self._part_size = -(-batch_size // (replicas * parts))
        replica_size = self._part_size * parts
        self._whole_size = replica_size * replicas
        self._rows = _rows(replica_size, replica)
        self._part_rows = _rows(self._part_size, part)
        self._size = size
        self._threads = threads
        self._device = device
        self._exchange = exchange
        self._decoder_options = decoder_options

    def __len__(self) -> int:
        """Batches of a pass."""
        return -(-len(self._images) // self._whole_size)

    def __iter__(self) -> Generator[tuple[torch.Tensor, torch.Tensor, torch.Tensor], None, None]:
        background = Background(
            _on_device(self._batches(), self._device),
            ahead=AHEAD,
            finish_begun=self._exchange is not None,
            name="validation feed",
        )
        try:
            for batch in background:
                _keep_for_current_stream(*batch)
                yield batch
        finally:
            background.close()

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

    def _batches(self) -> Generator[tuple[torch.Tensor, torch.Tensor, torch.Tensor], None, None]:
        decoded = decode(
            self._images,
            self._requests(),
            size=self._size,
            crop=self._size,
            batch_size=self._part_size,
            threads=self._threads,
            device=self._device,
            options=self._decoder_options,
        )
        with closing(decoded):
            for samples in self._samples():
                real = int((samples[self._part_rows] >= 0).sum())
                if real == self._part_size:
                    pixels, _ = next(decoded)
                else:
                    pixels = torch.zeros(self._part_size, self._size, self._size, 3, dtype=torch.uint8, device=self._device)
                    if real:
                        pixels[:real] = next(decoded)[0]
                labels = np.where(samples >= 0, self._images.labels[samples], -1)
                yield (
                    _channels_first(self._exchange(pixels) if self._exchange else pixels),
                    torch.from_numpy(labels).to(self._device),
                    torch.from_numpy(samples).to(self._device),
                )


def _rows(count: int, number: int) -> slice:
    return slice(number * count, (number + 1) * count)


def _channels_first(pixels: torch.Tensor) -> torch.Tensor:
    """[N, H, W, C] as [N, C, H, W], where it lies."""
    return pixels.permute(0, 3, 1, 2)


def _on_device(items: Generator[Item, None, None], device: torch.device) -> Generator[Item, None, None]:
    """Runs a generator on a CUDA stream of its own; each item is complete when it comes out."""
    if device.type != "cuda":
        yield from items
        return
    stream = torch.cuda.Stream(device)
    with closing(items):
        while True:
            with torch.cuda.device(device), torch.cuda.stream(stream):
                item = next(items, None)
            stream.synchronize()
            if item is None:
                return
            yield item


def _keep_for_current_stream(*tensors: torch.Tensor) -> None:
    """Tells the allocator that the consumer's stream still reads tensors which the feed's stream made."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
