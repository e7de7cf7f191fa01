"""A split of a data set as its encoded images, and the reader of a folder of class folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from alexnet_dist.errors import UserError


class Images(Protocol):
    """One split: encoded images by number. Safe to read from several threads."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, by label."""

    @property
    def class_ids(self) -> tuple[str, ...]:
        """What the classes are called in the source (WordNet ids, folders), by label; the names, where there is nothing else."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [n]."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> np.ndarray:
        """The encoded bytes of an image, uint8 [bytes]. Raises UserError, which names the image, where they cannot be had."""

    def name(self, index: int) -> str:
        """Where the image is, for messages: a path, or a shard and sample."""


class ImageFolder:
    """The images of a folder of class folders, in the order of their sorted names.

    Attributes:
        classes, class_ids: names of the class folders, sorted.
        labels: int64 [n].
    """

    def __init__(self, folder: str | Path, classes: Sequence[str], names: Sequence[np.ndarray]) -> None:
        """`names[label]` holds the file names of a class as a numpy array of bytes (20 bytes a file where a str takes 70)."""
        counts = [len(own) for own in names]
        self._folder = os.fspath(folder)
        self._names = tuple(names)
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self.classes = self.class_ids = tuple(classes)
        self.labels = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The path of the file."""
        label = self.labels[index]
        file = self._names[label][index - self._first[label]]
        return os.path.join(self._folder, self.classes[label], os.fsdecode(bytes(file)))

    def read(self, index: int) -> np.ndarray:
        """The encoded bytes, uint8 [bytes]. Raises UserError where the file is gone, empty or cannot be read."""
        path = self.name(index)
        try:
            with open(path, "rb", buffering=0) as file:
                encoded = np.frombuffer(file.readall(), np.uint8)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error}): restore it or remove it") from None
        if not len(encoded):
            raise UserError(f"{path} is empty: replace it or remove it")
        return encoded


class Relabelled:
    """The images of another split, their classes numbered in the order of `class_ids` (the same ones, in any order)."""

    def __init__(self, images: Images, class_ids: Sequence[str]) -> None:
        new_labels = {name: label for label, name in enumerate(class_ids)}
        order = np.array([new_labels[name] for name in images.class_ids])
        words = dict(zip(images.class_ids, images.classes, strict=True))
        self._images = images
        self.class_ids = tuple(class_ids)
        self.classes = tuple(words[name] for name in class_ids)
        self.labels = order[images.labels]

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> np.ndarray:
        return self._images.read(index)

    def name(self, index: int) -> str:
        return self._images.name(index)


def open_folder(root: str | Path, val_every: int | None) -> tuple[ImageFolder, ImageFolder]:
    """The training and validation images of a folder that holds train/ and maybe val/, each of class folders.

    Without val/, every `val_every`-th file of each class of train/, in sorted order, is for validation and not for training;
    with val/, `val_every` is not looked at. Files are those with an image's extension that are not hidden.

    Raises:
        UserError: a missing folder, a class without images, a class of val/ that train/ lacks, or nothing to validate on.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: set data.root to the folder that holds train/ (and val/)")
    if not (root / "train").is_dir():
        raise UserError(f"{root} has no folder train/: put the class folders of the training images into {root / 'train'}")
    classes, names = _list_classes(root / "train")
    if (root / "val").is_dir():
        val_classes, val_names = _list_classes(root / "val")
        if unknown := sorted(set(val_classes) - set(classes)):
            raise UserError(
                f"{root / 'val' / unknown[0]} is a class that {root / 'train'} does not have: add it there or remove it"
            )
        by_class = dict(zip(val_classes, val_names, strict=True))
        validation = [by_class.get(name, np.empty(0, np.bytes_)) for name in classes]
        return ImageFolder(root / "train", classes, names), ImageFolder(root / "val", classes, validation)
    if val_every is None:
        raise UserError(f"{root} has no folder val/: make one, or set data.val_every=10 to set every tenth training image aside")
    if val_every < 2:
        raise UserError(f"data.val_every={val_every} leaves no image to train on: set it to 2 or more")
    aside = [np.arange(len(own)) % val_every == val_every - 1 for own in names]
    train = ImageFolder(root / "train", classes, [own[~out] for own, out in zip(names, aside, strict=True)])
    val = ImageFolder(root / "train", classes, [own[out] for own, out in zip(names, aside, strict=True)])
    if not len(val):
        raise UserError(
            f"no class of {root / 'train'} has {val_every} images, so data.val_every={val_every} sets none aside: set it lower"
        )
    return train, val


def open_split(folder: Path) -> ImageFolder:
    """The images of one folder of class folders. Raises UserError as `open_folder` does."""
    return ImageFolder(folder, *_list_classes(folder))


def _list_classes(folder: Path) -> tuple[list[str], list[np.ndarray]]:
    """The class folders by name, and for each its image files' names, sorted, as arrays of bytes."""
    try:
        with os.scandir(folder) as entries:
            classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        names = [_list_files(os.path.join(folder, name)) for name in classes]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}): make it readable") from None
    if not classes:
        raise UserError(f"{folder} holds no class folders: put the images of each class into a folder of its own")
    for name, own in zip(classes, names, strict=True):
        if not len(own):
            raise UserError(f"the class folder {folder / name} holds no images: add some or remove the folder")
    return classes, names


def _list_files(folder: str) -> np.ndarray:
    with os.scandir(folder) as entries:
        return np.array(
            sorted(
                os.fsencode(entry.name)
                for entry in entries
                if entry.name.lower().endswith(IMG_EXTENSIONS) and not entry.name.startswith(".") and entry.is_file()
            ),
            dtype=np.bytes_,
        )
