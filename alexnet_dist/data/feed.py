"""The feed: batches for training and validation, made ahead in the background."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alexnet_dist.data.graph import Decoder
from alexnet_dist.data.images import Images
from alexnet_dist.data.plan import draw, epoch_order

_AHEAD = 2

# Given this process's part of a batch, uint8 [b / parts, ...], returns all parts in order, [b, ...].
Exchange = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """This replica's images of a training step, on the device.

    `pixels` uint8 [b, 3, crop, crop], `labels` int64 [b]; and what was drawn for them: the crops' offsets `y`, `x` int64 [b],
    `mirror` bool [b], `colour` float32 [b, 3]. `samples` int64 [b] (on the host) are their numbers in the data set.
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


class _Background:
    """Runs an iterator in a thread, at most `_AHEAD` items before they are asked for.

    The thread makes exactly as many items as are asked for and `_AHEAD` more: processes that exchange inside the iterator
    end at the same item, so none waits for a peer that has stopped.
    """

    def __init__(self, items: Iterator[Any], device: torch.device) -> None:
        self._items = items
        self._device = device
        self._allowed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        for _ in range(_AHEAD):
            self._allowed.put(True)
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)
                with torch.cuda.stream(torch.cuda.Stream()):
                    self._produce(torch.cuda.current_stream())
            else:
                self._produce(None)
        except BaseException as error:  # handed to whoever asks for the next item
            self._made.put(("error", error))

    def _produce(self, stream: torch.cuda.Stream | None) -> None:
        while self._allowed.get():
            item = next(self._items, None)
            if item is None:
                self._made.put(("end", None))
                return
            if stream is not None:
                stream.synchronize()
            self._made.put(("item", item))

    def __next__(self) -> Any:
        kind, value = self._made.get()
        if kind == "error":
            raise value
        if kind == "end":
            raise StopIteration
        self._allowed.put(True)
        return value

    def close(self) -> None:
        self._allowed.put(False)
        self._thread.join()


class TrainFeed:
    """The training batches of this process's replica, epoch after epoch, from `start` = (epoch, batch) on.

    Batch i of an epoch is order[i * batch_size : (i + 1) * batch_size] of that epoch's order; what is left over is dropped.
    Replica r of `replicas` takes its r-th equal part; of that, part p of `parts` is decoded here and the others come by
    `exchange`. The batches are the same whatever parts, threads and start.
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
    ) -> None:
        if batch_size % (replicas * parts):
            raise ValueError(f"a batch of {batch_size} images is not divided by {replicas} replicas of {parts} parts")
        if batch_size > len(images):
            raise ValueError(f"{len(images)} images do not fill a batch of {batch_size}")
        self.batches_per_epoch = len(images) // batch_size
        self._images, self._seed, self._mirror, self._offsets = images, seed, mirror, size - crop + 1
        self._batch_size, self._rows = batch_size, batch_size // replicas
        self._first_row, self._part_rows = replica * self._rows, self._rows // parts
        self._part, self._device, self._exchange = part, device, exchange
        self._decoder = Decoder(images, self._part_rows, size, crop, threads, device)
        self._background = _Background(self._batches(*start), device)

    def __iter__(self) -> "TrainFeed":
        return self

    def __next__(self) -> Batch:
        return next(self._background)

    def close(self) -> None:
        """Finish the batches under way and end the thread."""
        self._background.close()

    def _places(self, epoch: int, index: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Epoch, batch in it, and the samples of this replica's rows, from a place on."""
        while True:
            order = epoch_order(self._seed, epoch, len(self._images))
            for i in range(index, self.batches_per_epoch):
                first = i * self._batch_size + self._first_row
                yield epoch, i, order[first : first + self._rows]
            epoch, index = epoch + 1, 0

    def _batches(self, epoch: int, index: int) -> Iterator[Batch]:
        places = self._places(epoch, index)
        own = slice(self._part * self._part_rows, (self._part + 1) * self._part_rows)

        def submit() -> tuple[int, int, np.ndarray]:
            place = next(places)
            samples = place[2][own]
            self._decoder.submit(samples, draw(self._seed, place[0], samples, self._offsets, self._mirror))
            return place

        ahead = submit()
        while True:
            (epoch, index, samples), ahead = ahead, submit()
            pixels = self._decoder.fetch()
            if self._exchange is not None:
                pixels = self._exchange(pixels)
            draws = draw(self._seed, epoch, samples, self._offsets, self._mirror)

            def on_device(values: np.ndarray) -> torch.Tensor:
                return torch.from_numpy(values).to(self._device)

            yield Batch(
                epoch=epoch,
                index=index,
                samples=samples,
                pixels=pixels,
                labels=on_device(self._images.labels[samples]),
                y=on_device(draws.y),
                x=on_device(draws.x),
                mirror=on_device(draws.mirror),
                colour=on_device(draws.colour),
            )


class ValidationFeed:
    """One pass over all images, each in exactly one replica's batches exactly once; iterate as often as needed.

    Yields uint8 pixels [b, 3, size, size], int64 labels [b] and int64 sample numbers [b], on the device, the same number of
    batches of the same shape on every replica. Rows beyond the images have label and sample -1. `batch_size` images over
    all replicas make a batch, rounded up to what replicas and parts divide.
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
    ) -> None:
        self._images, self._size, self._threads, self._device = images, size, threads, device
        self._part_rows = -(-batch_size // (replicas * parts))
        self._rows = self._part_rows * parts
        self._replica, self._replicas, self._part, self._exchange = replica, replicas, part, exchange

    def __len__(self) -> int:
        return -(-len(self._images) // (self._rows * self._replicas))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        background = _Background(self._batches(), self._device)
        try:
            while True:
                try:
                    item = next(background)
                except StopIteration:
                    return
                yield item
        finally:
            background.close()

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        decoder = Decoder(self._images, self._part_rows, self._size, None, self._threads, self._device)
        ahead = self._submit(decoder, 0)
        for i in range(len(self)):
            (samples, own), ahead = ahead, self._submit(decoder, i + 1)
            pixels = torch.zeros(self._part_rows, 3, self._size, self._size, dtype=torch.uint8, device=self._device)
            if len(own):
                pixels[: len(own)] = decoder.fetch()
            if self._exchange is not None:
                pixels = self._exchange(pixels)
            labels = np.where(samples >= 0, self._images.labels[samples], -1)
            yield pixels, torch.from_numpy(labels).to(self._device), torch.from_numpy(samples).to(self._device)

    def _submit(self, decoder: Decoder, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Begin to decode this part of a batch; the replica's samples (-1 beyond the last image) and those decoded here."""
        first = (batch * self._replicas + self._replica) * self._rows
        samples = np.arange(first, first + self._rows)
        samples[samples >= len(self._images)] = -1
        own = samples[self._part * self._part_rows : (self._part + 1) * self._part_rows]
        own = own[own >= 0]
        if len(own):
            decoder.submit(own, None)
        return samples, own
