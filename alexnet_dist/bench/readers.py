"""This feed, and other ways of reading the same images, as their users write them.

A reader is an endless generator that gives, for every batch, how many images it has.
"""

import itertools
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from alexnet_dist.data.feed import TrainFeed
from alexnet_dist.data.images import Images, open_split
from alexnet_dist.data.packed import is_packed, open_packed
from alexnet_dist.parallel.pinning import name_cores
from alexnet_dist.parallel.process import keep_freed_memory

Reader = Generator[int, None, None]


@dataclass(frozen=True)
class Asked:
    """What all are asked for: batches of random `crop` x `crop` crops of images scaled to `size`.

    root: a folder of class folders, or a packed set, whose training images are meant. files: the same as a folder of class
    folders, for readers that know no other.
    """

    root: Path
    files: Path
    size: int
    crop: int
    batch_size: int
    threads: int
    device: torch.device

    def images(self) -> Images:
        return open_packed(self.root)[0] if is_packed(self.root) else open_split(self.root)


def this_feed(asked: Asked) -> Reader:
    """The feed of a training process that has no peer, and the mirror, which is made in the step: kernels/preprocess.py."""
    _keep_memory(asked)
    feed = TrainFeed(
        asked.images(),
        seed=0,
        batch_size=asked.batch_size,
        size=asked.size,
        crop=asked.crop,
        mirror=True,
        threads=asked.threads,
        device=asked.device,
    )
    with closing(feed):
        for batch in feed:
            if asked.device.type == "cpu":  # a GPU's kernel reads a mirrored crop in another order
                for image in itertools.compress(batch.pixels, batch.mirror.tolist()):
                    image.flip(2)
            yield len(batch.labels)


def bare_decoder(asked: Asked) -> Reader:
    """DALI's decoder alone, of whole images whose bytes are in memory. Its threads are pinned, and its memory kept, as the feed's
    are."""
    _keep_memory(asked)
    images, size = asked.images(), asked.batch_size
    encoded = [np.array(images.read(index)) for index in range(min(len(images), 4096))]
    batches = itertools.cycle([encoded[i : i + size] for i in range(0, len(encoded) - size + 1, size)])

    @pipeline_def(
        batch_size=size,
        num_threads=asked.threads,
        device_id=asked.device.index,
        prefetch_queue_depth=2,
        exec_dynamic=True,
        set_affinity=asked.device.index is None and name_cores(asked.threads),
    )
    def graph() -> Any:
        images = fn.external_source(lambda: next(batches), dtype=types.UINT8, ndim=1, no_copy=True)
        return fn.decoders.image(images, device=_decoding_device(asked), output_type=types.RGB)

    return _run(graph(), size)


def dali_files(asked: Asked) -> Reader:
    """DALI's file reader and operators for the same sample: the short side scaled, a random crop, a coin's mirror."""

    @pipeline_def(
        batch_size=asked.batch_size, num_threads=asked.threads, device_id=asked.device.index, prefetch_queue_depth=2, seed=1
    )
    def graph() -> Any:
        encoded, _ = fn.readers.file(file_root=str(asked.files), random_shuffle=True)
        images = fn.decoders.image(encoded, device=_decoding_device(asked), output_type=types.RGB)
        images = fn.resize(images, resize_shorter=asked.size)
        images = fn.crop(images, crop=(asked.size, asked.size))
        x, y = fn.random.uniform(range=[0.0, 1.0]), fn.random.uniform(range=[0.0, 1.0])
        images = fn.crop(images, crop=(asked.crop, asked.crop), crop_pos_x=x, crop_pos_y=y)
        return fn.flip(images, horizontal=fn.random.coin_flip())

    return _run(graph(), asked.batch_size)


def torchvision_pil(asked: Asked) -> Reader:
    """torchvision's ImageFolder with its default loader (Pillow) and a DataLoader that keeps its workers."""
    return _load(ImageFolder(asked.files, v2.Compose([*_crop(asked), v2.PILToTensor()])), asked)


def torchvision_floats(asked: Asked) -> Reader:
    """As most scripts have it: the same with Pillow, and each worker makes normalised floats (the others give bytes)."""
    to_floats = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    return _load(ImageFolder(asked.files, v2.Compose([*_crop(asked), *to_floats])), asked)


def torchvision_turbo(asked: Asked) -> Reader:
    """The same with torchvision's own decoder, which is libjpeg-turbo, and tensors of bytes from there on."""
    crop = v2.Compose(_crop(asked))
    return _load(ImageFolder(asked.files, crop, loader=lambda path: decode_image(read_file(path), ImageReadMode.RGB)), asked)


FEED = "this feed"
READERS = {
    FEED: this_feed,
    "decoder alone (DALI)": bare_decoder,
    "DALI from files": dali_files,
    "DataLoader, Pillow": torchvision_pil,
    "DataLoader, Pillow, floats": torchvision_floats,
    "DataLoader, libjpeg-turbo": torchvision_turbo,
}


def _keep_memory(asked: Asked) -> None:
    """As a process that trains does."""
    if asked.device.type == "cpu":
        keep_freed_memory()


def _decoding_device(asked: Asked) -> str:
    return "cpu" if asked.device.index is None else "mixed"


def _run(pipeline: Any, batch_size: int) -> Reader:
    pipeline.build()
    while True:
        pipeline.run()
        yield batch_size


def _crop(asked: Asked) -> list[v2.Transform]:
    return [v2.Resize(asked.size), v2.CenterCrop(asked.size), v2.RandomCrop(asked.crop), v2.RandomHorizontalFlip()]


def _load(dataset: ImageFolder, asked: Asked) -> Reader:
    loader = DataLoader(
        dataset,
        asked.batch_size,
        shuffle=True,
        num_workers=asked.threads,
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="fork",  # what users have; the processes of the bench would start workers as they were started
        pin_memory=torch.cuda.is_available(),
    )
    while True:
        for images, _ in loader:
            yield len(images)
