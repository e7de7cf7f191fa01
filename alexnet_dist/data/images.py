"""The images of a split, encoded as they lie on disk, and a folder of class folders of them."""

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from alexnet_dist.errors import UserError


class Images(Protocol):
    """One split of a data set: `classes` by name, and for each image a label (int64 [n]) and its encoded bytes."""

    classes: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int: ...

    def read(self, index: int) -> np.ndarray:
        """The encoded file, uint8 [bytes]."""
        ...

    def name(self, index: int) -> str:
        """Where the image comes from, for a person who must find it."""
        ...


class ImageFolder:
    """Images in class folders: `<folder>/<class>/<file>`, classes and files in the order of their names."""

    def __init__(self, folder: Path, classes: tuple[str, ...], files: list[str], labels: list[int]) -> None:
        self.folder = folder
        self.classes = classes
        self.labels = np.asarray(labels, dtype=np.int64)
        self._files = np.asarray(files, dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> np.ndarray:
        try:
            return np.fromfile(self.name(index), dtype=np.uint8)
        except OSError as error:
            raise UserError(f"{self.name(index)} cannot be read ({error.strerror}): put it back or remove it") from None

    def name(self, index: int) -> str:
        label = self.classes[self.labels[index]]
        return os.path.join(self.folder, label, os.fsdecode(bytes(self._files[index])))


def open_folder(root: Path, val_every: int | None) -> tuple[ImageFolder, ImageFolder]:
    """The training and validation images of `root`, which holds train/ and val/ of class folders.

    Without val/, every `val_every`-th file of each class of train/ is for validation and not for training.

    Raises:
        UserError: a folder is missing, a class is empty or unknown, or nothing says which images are for validation.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder: set data.root to the one that holds train/ and val/")
    if not (root / "train").is_dir():
        raise UserError(f"{root} has no folder train/: it must hold train/<class>/<image> files")
    classes = _classes(root / "train")
    train = _list(root / "train", classes)
    if (root / "val").is_dir():
        for name in _classes(root / "val"):
            if name not in classes:
                raise UserError(f"{root / 'val' / name} is a class that {root / 'train'} has not: add it there or remove it")
        present = [name for name in classes if (root / "val" / name).is_dir()]
        return _split(root / "train", classes, train), _split(root / "val", classes, _list(root / "val", tuple(present)))
    if val_every is None:
        raise UserError(f"{root} has no folder val/: add it, or set data.val_every=10 to take every tenth file of train/")
    kept = {name: [file for i, file in enumerate(files) if (i + 1) % val_every] for name, files in train.items()}
    held = {name: files[val_every - 1 :: val_every] for name, files in train.items()}
    if not any(held.values()):
        raise UserError(f"no class of {root / 'train'} has {val_every} files: set data.val_every lower")
    for name, files in kept.items():
        if not files:
            raise UserError(f"{root / 'train' / name} has too few images to share with validation: add some")
    return _split(root / "train", classes, kept), _split(root / "train", classes, held)


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if not names:
        raise UserError(f"{folder} has no class folders: it must hold <class>/<image> files")
    return names


def _list(folder: Path, classes: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in classes:
        files = sorted(entry.name for entry in os.scandir(folder / name) if entry.name.lower().endswith(IMG_EXTENSIONS))
        if not files:
            raise UserError(f"{folder / name} is a class without images: add some or remove the folder")
        found[name] = files
    return found


def _split(folder: Path, classes: tuple[str, ...], files: dict[str, list[str]]) -> ImageFolder:
    names = [file for name in classes for file in files.get(name, ())]
    labels = [label for label, name in enumerate(classes) for _ in files.get(name, ())]
    return ImageFolder(folder, classes, [os.fsencode(name) for name in names], labels)  # type: ignore[misc]
