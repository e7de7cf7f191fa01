"""A split of a data set as its encoded images, and the reader of a folder of class folders."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from alexnet_dist.data.listing import list_classes
from alexnet_dist.errors import UserError

ANNOTATIONS = "val_annotations.txt"


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

    @property
    def side(self) -> int | None:
        """Of all images, in pixels, where they are known to be squares of one; else None."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> np.ndarray:
        """The encoded bytes of an image, uint8 [bytes]. Raises UserError, which names the image, where they cannot be had."""

    def name(self, index: int) -> str:
        """Where the image is, for messages: a path, or a shard and sample."""

    def fingerprint(self) -> str:
        """A sum of the images' names, classes and order: the same wherever they lie. No image is read."""


def sum_of(*parts: bytes | np.ndarray | Sequence[str]) -> str:
    """A SHA-256 over bytes, arrays and names."""
    digest = hashlib.sha256()
    for part in parts:
        if not isinstance(part, bytes | np.ndarray):
            part = "\n".join(part).encode("utf-8", "surrogateescape")
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.hexdigest()


class ImageFolder:
    """The images of a folder of class folders, in the order of their sorted paths; a class is called as its folder."""

    side = None

    def __init__(self, folder: Path, classes: Sequence[str], files: Sequence[np.ndarray]) -> None:
        """`files[label]` holds the paths in a class folder, as bytes [n]."""
        counts = [len(own) for own in files]
        self.folder = folder
        self._files = tuple(files)
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self.classes = self.class_ids = tuple(classes)
        self.labels = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.labels)

    def file(self, index: int) -> str:
        """The path of the file from `folder` on."""
        label = self.labels[index]
        own = self._files[label][index - self._first[label]]
        return os.path.join(self.classes[label], os.fsdecode(bytes(own)))

    def name(self, index: int) -> str:
        """The path of the file."""
        return os.path.join(self.folder, self.file(index))

    def read(self, index: int) -> np.ndarray:
        path = self.name(index)
        try:
            with open(path, "rb", buffering=0) as file:
                encoded = np.frombuffer(file.readall(), np.uint8)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error}): restore it or remove it") from None
        if not len(encoded):
            raise UserError(f"{path} is empty: replace it or remove it")
        return encoded

    def fingerprint(self) -> str:
        return sum_of(self.classes, self.labels, *self._files)


class AnnotatedImages(ImageFolder):
    """The images of a folder that lie together in images/, their classes told by a list: Tiny-ImageNet's val/ as it comes."""

    def file(self, index: int) -> str:
        return os.path.join("images", os.path.basename(super().file(index)))


class Subset:
    """The images of another split that have these numbers in it, as a split of their own."""

    def __init__(self, images: Images, numbers: Sequence[int] | np.ndarray) -> None:
        self._images = images
        self._numbers = np.asarray(numbers, np.int64)
        self.classes, self.class_ids, self.side = images.classes, images.class_ids, images.side
        self.labels = images.labels[self._numbers]

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, index: int) -> np.ndarray:
        return self._images.read(int(self._numbers[index]))

    def name(self, index: int) -> str:
        return self._images.name(int(self._numbers[index]))

    def fingerprint(self) -> str:
        return sum_of(self._images.fingerprint().encode(), self._numbers, self.labels, self.class_ids)


class Relabelled(Subset):
    """The images of another split, their classes numbered in the order of `class_ids` (the same ones, in any order)."""

    def __init__(self, images: Images, class_ids: Sequence[str]) -> None:
        super().__init__(images, np.arange(len(images)))
        new_labels = {name: label for label, name in enumerate(class_ids)}
        words = dict(zip(images.class_ids, images.classes, strict=True))
        self.labels = np.array([new_labels[name] for name in images.class_ids])[images.labels]
        self.class_ids = tuple(class_ids)
        self.classes = tuple(words[name] for name in class_ids)


def open_folder(root: str | Path) -> tuple[ImageFolder, ImageFolder]:
    """The training and validation images of a folder that holds train/ and maybe val/, each of class folders; without val/ none
    are for validation. val/ may be Tiny-ImageNet's instead: images/ and val_annotations.txt.

    Raises UserError: a missing folder, a class without images, images outside class folders, a class of val/ that train/ lacks, a
    line of val_annotations.txt that is none, or that file cannot be read.
    """
    root = Path(root)
    train = open_train(root)
    val_files: dict[str, np.ndarray] = {}
    annotated = (root / "val" / ANNOTATIONS).is_file() and (root / "val" / "images").is_dir()
    if annotated:
        val_files = read_annotations(root / "val" / ANNOTATIONS)
    elif (root / "val").is_dir():
        val_files = dict(zip(*list_classes(root / "val"), strict=True))
    if unknown := sorted(set(val_files) - set(train.classes)):
        raise UserError(f"{root / 'val' / unknown[0]} is a class that {root / 'train'} does not have: add it there or remove it")
    validation = [val_files.get(name, np.empty(0, np.bytes_)) for name in train.classes]
    kind = AnnotatedImages if annotated else ImageFolder
    return train, kind(root / "val", train.classes, validation)


def open_train(root: Path) -> ImageFolder:
    """The training images of a folder that holds train/. Raises UserError as `open_folder` does."""
    if not root.is_dir():
        raise UserError(f"{root} is no folder: name the one that holds train/ (and val/)")
    if not (root / "train").is_dir():
        raise UserError(f"{root} has no folder train/: put the class folders of the training images into {root / 'train'}")
    return open_split(root / "train")


def read_annotations(path: Path) -> dict[str, np.ndarray]:
    """The files of each class, as bytes [n], from a list with a line an image: its file, its class, and more behind them. Names
    are in whatever bytes the file system has."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): restore this list of the classes of the images") from None
    labels: dict[str, str] = {}
    for number, line in enumerate(map(os.fsdecode, lines), 1):
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        if not name or not label:
            raise UserError(f"{path}, line {number}: there must be a file and its class with tabs between, not {line!r}")
        if labels.setdefault(name, label) != label:
            raise UserError(f"{path}, line {number}: {name} has another class above: leave one of the lines out")
    files = defaultdict(list)
    for name, label in labels.items():
        files[label].append(os.fsencode(name))
    return {label: np.array(sorted(own), np.bytes_) for label, own in files.items()}


def open_split(folder: Path) -> ImageFolder:
    """The images of one folder of class folders. Raises UserError as `open_folder` does."""
    return ImageFolder(folder, *list_classes(folder))


def set_aside(images: Images, val_every: int) -> tuple[Images, Images]:
    """The images without every `val_every`-th of each class, in their order, and those: to train on and to validate on."""
    counts = np.bincount(images.labels, minlength=len(images.classes))
    of_class = np.empty(len(images), np.int64)  # the image's place among those of its class
    of_class[np.argsort(images.labels, kind="stable")] = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
    aside = of_class % val_every == val_every - 1
    return Subset(images, np.flatnonzero(~aside)), Subset(images, np.flatnonzero(aside))
