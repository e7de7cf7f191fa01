"""The sets that torchvision brings: CIFAR-10 and Imagenette, downloaded where they are not there."""

import tempfile
import urllib.error
from pathlib import Path

from alexnet_dist.data.packed import ClassName
from alexnet_dist.errors import UserError
from alexnet_dist.packing.folders import list_class_folders
from alexnet_dist.packing.samples import Sample, Source

EDITIONS = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}


def list_cifar10(root: Path) -> Source:
    """CIFAR-10 of torchvision. Raises UserError where it is not whole under `root` and cannot be had."""
    from torchvision.datasets import CIFAR10

    try:
        splits = [CIFAR10(root, train=train, download=True) for train in (True, False)]
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"CIFAR-10 is not whole under {root} and could not be downloaded ({error}): "
            f"put {CIFAR10.filename} or the folder {CIFAR10.base_folder} there"
        ) from None
    train, val = (
        [
            # The bare pixels as a PPM file, so that they go the way of all images.
            Sample(f"{name}-{number:05d}", label, data=b"P6 32 32 255\n" + pixels.tobytes())
            for number, (pixels, label) in enumerate(zip(split.data, split.targets, strict=True))
        ]
        for name, split in zip(("train", "test"), splits, strict=True)
    )
    return Source(tuple(ClassName(name, name) for name in splits[0].classes), train, val)


def list_imagenette(root: Path, wants_originals: bool) -> Source:
    """The edition of Imagenette under `root`; where none is, one is downloaded. Raises UserError where none can be had."""
    from torchvision.datasets import Imagenette

    present = [size for size, folder in EDITIONS.items() if (root / folder).is_dir() or (root / f"{folder}.tgz").is_file()]
    size = present[0] if present else "full" if wants_originals else "320px"
    folder = root / EDITIONS[size]
    archive = folder.with_suffix(".tgz")
    try:
        if not folder.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            # Beside it and then renamed: torchvision would take a folder for whole that it had begun to unpack.
            with tempfile.TemporaryDirectory(dir=root, prefix=".") as scratch:
                if archive.is_file():
                    (Path(scratch) / archive.name).symlink_to(archive.absolute())
                Imagenette(scratch, "train", size, download=True)
                (Path(scratch) / folder.name).rename(folder)
        train = Imagenette(root, "train", size)
    except (urllib.error.URLError, OSError, RuntimeError, KeyError) as error:
        raise UserError(
            f"Imagenette is not whole under {root} and could not be downloaded ({error}): "
            f"put {EDITIONS[size]}.tgz or the folder {EDITIONS[size]} there"
        ) from None
    words = {wnid: names[0] for wnid, names in zip(train.wnids, train.classes, strict=True)}
    return list_class_folders(root / EDITIONS[size], words)
