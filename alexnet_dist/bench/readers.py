"""Other ways of reading the images that the feed reads, as their users write them."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from alexnet_dist.data.graph import name_cores

# One step of a reader: it reads a batch and returns how many images that were.
Step = Callable[[], int]


def bare_decoder(encoded: Sequence[np.ndarray], batch_size: int, threads: int, device_id: int | None) -> Step:
    """DALI's decoder alone, on bytes that are in memory: whole images. Its threads are pinned as the feed's are."""
    batches = itertools.cycle([list(encoded[i : i + batch_size]) for i in range(0, len(encoded) - batch_size + 1, batch_size)])

    @pipeline_def(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=2,
        exec_dynamic=True,
        set_affinity=device_id is None and name_cores(threads),
    )
    def graph() -> Any:
        images = fn.external_source(lambda: next(batches), dtype=types.UINT8, ndim=1, no_copy=True)
        return fn.decoders.image(images, device="cpu" if device_id is None else "mixed", output_type=types.RGB)

    return _of_pipeline(graph(), batch_size)


def dali_files(folder: Path, size: int, crop: int, batch_size: int, threads: int, device_id: int | None) -> Step:
    """DALI's file reader and operators for the same sample: the short side scaled, a random crop, a coin's mirror."""

    @pipeline_def(batch_size=batch_size, num_threads=threads, device_id=device_id, prefetch_queue_depth=2, seed=1)
    def graph() -> Any:
        encoded, _ = fn.readers.file(file_root=str(folder), random_shuffle=True)
        images = fn.decoders.image(encoded, device="cpu" if device_id is None else "mixed", output_type=types.RGB)
        images = fn.resize(images, resize_shorter=size)
        images = fn.crop(images, crop=(size, size))
        x, y = fn.random.uniform(range=[0.0, 1.0]), fn.random.uniform(range=[0.0, 1.0])
        images = fn.crop(images, crop=(crop, crop), crop_pos_x=x, crop_pos_y=y)
        return fn.flip(images, horizontal=fn.random.coin_flip())

    return _of_pipeline(graph(), batch_size)


def torchvision_pil(folder: Path, size: int, crop: int, batch_size: int, workers: int) -> Step:
    """torchvision's ImageFolder with its default loader (Pillow) and a DataLoader that keeps its workers."""
    cuts = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.RandomCrop(crop), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    return _of_loader(ImageFolder(folder, cuts), batch_size, workers)


def torchvision_floats(folder: Path, size: int, crop: int, batch_size: int, workers: int) -> Step:
    """As most scripts have it: the same with Pillow, and each worker makes normalised floats (the others give bytes)."""
    cuts = v2.Compose(
        [
            *(v2.Resize(size), v2.CenterCrop(size), v2.RandomCrop(crop), v2.RandomHorizontalFlip()),
            *(v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])),
        ]
    )
    return _of_loader(ImageFolder(folder, cuts), batch_size, workers)


def torchvision_turbo(folder: Path, size: int, crop: int, batch_size: int, workers: int) -> Step:
    """The same with torchvision's own decoder, which is libjpeg-turbo, and tensors of bytes from there on."""
    cuts = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.RandomCrop(crop), v2.RandomHorizontalFlip()])
    dataset = ImageFolder(folder, cuts, loader=lambda path: decode_image(read_file(path), ImageReadMode.RGB))
    return _of_loader(dataset, batch_size, workers)


def _of_loader(dataset: ImageFolder, batch_size: int, workers: int) -> Step:
    loader = DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )
    batches = _endless(loader)
    return lambda: len(next(batches)[0])


def _endless(loader: "DataLoader[Any]") -> Iterator[Any]:
    while True:
        yield from loader


def _of_pipeline(pipeline: Any, batch_size: int) -> Step:
    pipeline.build()

    def step() -> int:
        pipeline.run()
        return batch_size

    return step
