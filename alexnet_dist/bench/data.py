"""The feed beside other readers of the same images: python -m alexnet_dist.bench data root=photographs"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich import box
from rich.table import Table

from alexnet_dist.bench import readers
from alexnet_dist.bench.readers import Step
from alexnet_dist.bench.rounds import machine, new_file, rate_of, ratio, take_turns, write
from alexnet_dist.commands import command
from alexnet_dist.data.feed import TrainFeed
from alexnet_dist.data.images import Images, open_split
from alexnet_dist.data.packed import PackedImages, open_packed
from alexnet_dist.errors import UserError
from alexnet_dist.parallel.mesh import pick_device, share_cores
from alexnet_dist.prepare import Options, prepare
from alexnet_dist.settings import Positive, check, strict
from alexnet_dist.tracking.display import Display

FEED, BARE = "this feed", "decoder alone (DALI)"


@dataclass(frozen=True, config=strict)
class BenchDataSettings:
    """conf/bench_data.yaml, checked."""

    root: str | None
    size: Positive
    crop: Positive
    batch_size: Positive
    rounds: Positive
    seconds: Annotated[float, Field(gt=0)]
    threads: Positive | Literal["auto"]
    device: Literal["auto", "cpu", "cuda"]
    output: str | None


def run(config: dict[str, Any]) -> None:
    """Measure all readers on the images as they are and on the packed ones, print two tables and write the figures."""
    settings = check(BenchDataSettings, config)
    if settings.root is None:
        raise UserError("root is not set: name an image folder with train/, as in root=photographs")
    if settings.crop > settings.size:
        raise UserError(f"crop={settings.crop} is more than size={settings.size}: set it to {settings.size} or less")
    folder = Path(settings.root) / "train"
    images = open_split(folder)
    output = new_file(settings.output, "data")
    device = pick_device(settings.device, 0)
    threads = share_cores(1) if isinstance(settings.threads, str) else settings.threads
    torch.set_num_threads(1)  # each reader is told its threads: torch's own would be more than that

    with Display(rank=0) as display, tempfile.TemporaryDirectory() as scratch:
        packed_folder = Path(scratch) / "files" / "train"
        packed = pack(Path(settings.root), settings, threads, Path(scratch) / "packed")
        write_files(packed, packed_folder)
        cases = {}
        for case, own, files in (
            ("files as they are", images, folder),
            (f"packed at {settings.size} pixels", packed, packed_folder),
        ):
            rates = measure(own, files, settings, threads, device, partial(display.show, case))
            cases[case] = {"images": len(own), "images_per_second": rates}
            display.console.print(table(case, rates, machine()["cores"]))
    write(output, {"bench": "data", "machine": machine(), "settings": config, "threads": threads, "cases": cases})
    print(f"figures are in {output}")


def measure(
    images: Images, files: Path, settings: BenchDataSettings, threads: int, device: torch.device, show: Callable[[int, int], None]
) -> dict[str, list[float]]:
    """Images a second of every reader, a figure a round; no reader's first two epochs are in them."""
    if len(images) < settings.batch_size:
        raise UserError(f"{files} has {len(images)} images, fewer than a batch: set batch_size={len(images)} or less")
    with TrainFeed(
        images,
        seed=0,
        batch_size=settings.batch_size,
        replica=0,
        replicas=1,
        part=0,
        parts=1,
        size=settings.size,
        crop=settings.crop,
        mirror=True,
        threads=threads,
        device=device,
        exchange=None,
    ) as feed:
        warm_up = 2 * feed.batches_per_epoch
        turns = {
            name: partial(rate_of, step, settings.seconds, warm_up)
            for name, step in all_readers(feed, images, files, settings, threads, device).items()
        }
        return take_turns(turns, settings.rounds, show)


def pack(root: Path, settings: BenchDataSettings, workers: int, output: Path) -> PackedImages:
    """The training images of an image folder as a packed set of squares."""
    prepare(Options("imagefolder", root, output, settings.size, 95, max_skipped=1.0, workers=workers, samples_per_shard=None))
    return open_packed(output)[0]


def write_files(packed: PackedImages, folder: Path) -> None:
    """The images of a packed set as files in class folders, for readers that know no shards."""
    for index, label in enumerate(packed.labels):
        path = folder / f"{label:04d}" / f"{index:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed.read(index).tobytes())


def all_readers(
    feed: TrainFeed, images: Images, files: Path, settings: BenchDataSettings, threads: int, device: torch.device
) -> dict[str, Step]:
    """The readers by name; all give batches of the same size, of the same images."""
    size, crop, batch_size = settings.size, settings.crop, settings.batch_size
    encoded = [np.array(images.read(index)) for index in range(min(len(images), 4096))]
    return {
        FEED: lambda: len(next(feed).labels),
        BARE: readers.bare_decoder(encoded, batch_size, threads, device.index),
        "DALI from files": readers.dali_files(files, size, crop, batch_size, threads, device.index),
        "DataLoader, Pillow": readers.torchvision_pil(files, size, crop, batch_size, threads),
        "DataLoader, Pillow, floats": readers.torchvision_floats(files, size, crop, batch_size, threads),
        "DataLoader, libjpeg-turbo": readers.torchvision_turbo(files, size, crop, batch_size, threads),
    }


def table(case: str, rates: dict[str, list[float]], cores: int) -> Table:
    """Medians, and the feed's rate over each reader's in the same round."""
    shown = Table(title=case, box=box.SIMPLE)
    shown.add_column("reader", no_wrap=True)
    for heading in ("images/s", "per core", "feed / reader"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, own in rates.items():
        shown.add_row(name, f"{median(own):.0f}", f"{median(own) / cores:.0f}", f"{ratio(rates, FEED, name):.2f}")
    return shown


def main() -> None:
    command("bench_data", run)


if __name__ == "__main__":
    main()
