"""What `prepare` packs: every image file of a source, where its bytes are, and its class. No image is read here."""

import hashlib
import io
import os
import re
import tarfile
import urllib.error
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_dist.data.images import ImageFolder, open_folder
from alexnet_dist.data.packed import ClassName
from alexnet_dist.errors import UserError

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"
DEVKIT_ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file: `length` bytes of `path` from `offset`, or `data` itself where the source keeps bare pixels.

    A length of -1 is a file that can be listed and not opened.
    """

    name: str
    label: int
    path: str = ""
    offset: int = 0
    length: int = 0
    data: bytes | None = None


@dataclass(frozen=True)
class Source:
    """All samples of a source, in its own order, and its classes by label."""

    classes: tuple[ClassName, ...]
    train: Sequence[Sample]
    val: Sequence[Sample]

    def fingerprint(self) -> str:
        """A SHA-256 over names, labels, lengths and classes: the same wherever the source lies, another if it changed."""
        digest = hashlib.sha256()
        for entry in self.classes:
            digest.update(f"{entry.id}\t{entry.words}\n".encode("utf-8", "backslashreplace"))
        for split, samples in (("train", self.train), ("val", self.val)):
            for sample in samples:
                length = sample.length if sample.data is None else len(sample.data)
                digest.update(f"{split}\t{sample.name}\t{sample.label}\t{length}\n".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def list_source(source: str, root: Path, wants_originals: bool, pool: Executor) -> Source:
    """List the samples of a source under `root`; archives are listed on all of the pool's processes.

    `wants_originals` matters to Imagenette alone: which of its editions to download where none is under `root`.
    Raises UserError where files are missing or do not belong together.
    """
    if source == "ilsvrc2012":
        return _list_ilsvrc2012(root, pool)
    if source == "imagefolder":
        return _list_class_folders(root, {})
    if source == "cifar10":
        return _list_cifar10(root)
    return _list_imagenette(root, wants_originals)


# ---------------------------------------------------------------------------------------------------------- ILSVRC2012


def _list_ilsvrc2012(root: Path, pool: Executor) -> Source:
    if not root.is_dir():
        raise UserError(f"root={root} is no folder: set it to the folder that holds the source's files")
    for name in (TRAIN_ARCHIVE, VAL_ARCHIVE, DEVKIT_ARCHIVE):
        if not (root / name).is_file():
            raise UserError(f"{root} lacks {name}: put the three ILSVRC2012 archives there, as image-net.org gives them")
    classes, val_labels = read_devkit(root / DEVKIT_ARCHIVE)
    labels = {entry.id: label for label, entry in enumerate(classes)}

    train_archive = root / TRAIN_ARCHIVE
    found: dict[str, tuple[int, int]] = {}
    for name, offset, length in list_tar(train_archive):
        wnid = Path(name).stem
        if wnid not in labels:
            raise UserError(f"{train_archive} holds {name}, which is no class of {DEVKIT_ARCHIVE}: get both again")
        found[wnid] = (offset, length)
    absent = [entry.id for entry in classes if entry.id not in found]
    if absent:
        raise UserError(f"{train_archive} lacks {len(absent)} classes, the first being {absent[0]}: get it again")
    listings = pool.map(
        list_tar,
        [train_archive] * len(classes),
        [found[entry.id][0] for entry in classes],
        [found[entry.id][1] for entry in classes],
        chunksize=4,
    )
    train = [
        Sample(f"{entry.id}/{Path(name).name}", label, str(train_archive), offset, length)
        for label, (entry, listing) in enumerate(zip(classes, listings, strict=True))
        for name, offset, length in listing
    ]

    val_archive = root / VAL_ARCHIVE
    members = sorted((Path(name).name, offset, length) for name, offset, length in list_tar(val_archive))
    if len(members) != len(val_labels):
        raise UserError(
            f"{val_archive} holds {len(members)} images and {DEVKIT_ARCHIVE} the ground truth of {len(val_labels)}: "
            "get both again"
        )
    val = []
    for name, offset, length in members:
        number = re.fullmatch(r"ILSVRC2012_val_(\d+)\.JPEG", name)
        if number is None or not 1 <= int(number[1]) <= len(val_labels):
            raise UserError(f"{val_archive} holds {name}, which has no line in the devkit's ground truth: get both again")
        val.append(Sample(name, val_labels[int(number[1]) - 1], str(val_archive), offset, length))
    return Source(classes, train, val)


def read_devkit(path: Path) -> tuple[tuple[ClassName, ...], list[int]]:
    """The classes in the order of ILSVRC2012_ID, and the labels (that id less one) of the validation images by number.

    Raises UserError where the archive is not the devkit of ILSVRC2012.
    """
    import scipy.io

    meta, ground_truth = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as devkit:
            for member in devkit:
                for wanted in (meta, ground_truth):
                    if member.name.endswith(wanted) and (extracted := devkit.extractfile(member)) is not None:
                        files[wanted] = extracted.read()
        synsets = np.atleast_1d(scipy.io.loadmat(io.BytesIO(files[meta]), squeeze_me=True)["synsets"])
        leaves = sorted(
            (int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"])) for row in synsets if not row["num_children"]
        )
        labels = [int(line) - 1 for line in files[ground_truth].split()]
    except (tarfile.TarError, OSError, EOFError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not the devkit of ILSVRC2012 ({error}): get it again") from None
    if [number for number, _, _ in leaves] != list(range(1, len(leaves) + 1)):
        raise UserError(f"the classes in {path} are not numbered from 1 on: get it again")
    if any(not 0 <= label < len(leaves) for label in labels):
        raise UserError(f"the ground truth in {path} names a class that it does not describe: get it again")
    return tuple(ClassName(wnid, words) for _, wnid, words in leaves), labels


def list_tar(path: Path, offset: int = 0, length: int | None = None) -> list[tuple[str, int, int]]:
    """Name, absolute offset and length of every file in a tar archive, or in one that lies inside another's range.

    Raises UserError where the archive is damaged or ends early.
    """
    end = path.stat().st_size if length is None else offset + length
    members = []
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"{member.name} reaches beyond its end")
                    if member.isfile():
                        members.append((member.name, member.offset_data, member.size))
                # tarfile takes a damaged header for the end of the archive.
                file.seek(archive.offset)
                if any(file.read(min(tarfile.BLOCKSIZE, max(end - archive.offset, 0)))):
                    raise tarfile.ReadError(f"no member's header at byte {archive.offset}")
    except tarfile.TarError as error:
        raise UserError(f"the archive {path} is damaged or cut short ({error}): get it again") from None
    return members


# ------------------------------------------------------------------------------------------------- a folder per class


def _list_class_folders(root: Path, words: Mapping[str, str]) -> Source:
    """root/train/<class>/... and, where it is there, root/val/<class>/...; `words` of a class where they are not its name."""
    train, val = open_folder(root)
    classes = tuple(ClassName(name, words.get(name, name)) for name in train.classes)
    return Source(classes, _samples(train), _samples(val))


def _samples(images: ImageFolder) -> list[Sample]:
    samples = []
    for index, label in enumerate(images.labels.tolist()):
        path = images.name(index)
        try:
            length = os.stat(path).st_size if os.access(path, os.R_OK) else -1
        except OSError:
            length = -1
        samples.append(Sample(images.file(index), label, path, 0, length))
    return samples


# -------------------------------------------------------------------------------------------------- torchvision's sets


def _list_cifar10(root: Path) -> Source:
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


def _list_imagenette(root: Path, wants_originals: bool) -> Source:
    from torchvision.datasets import Imagenette

    editions = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}
    present = [size for size, folder in editions.items() if (root / folder).is_dir() or (root / f"{folder}.tgz").is_file()]
    size = present[0] if present else "full" if wants_originals else "320px"
    try:
        train = Imagenette(root, "train", size, download=not (root / editions[size]).is_dir())
    except (urllib.error.URLError, OSError, RuntimeError, KeyError) as error:
        raise UserError(
            f"Imagenette is not whole under {root} and could not be downloaded ({error}): "
            f"put {editions[size]}.tgz or the folder {editions[size]} there"
        ) from None
    words = {wnid: names[0] for wnid, names in zip(train.wnids, train.classes, strict=True)}
    return _list_class_folders(root / editions[size], words)
