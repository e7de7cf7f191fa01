"""Tar archives: what is in one, and WebDataset's, in which files of one name are one sample."""

import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path

from alexnet_dist.data.listing import ENDINGS
from alexnet_dist.errors import UserError, tell
from alexnet_dist.packing.labels import from_numbers, split_of
from alexnet_dist.packing.samples import Sample, Source


def list_tar(path: Path, offset: int = 0, length: int | None = None) -> list[tuple[str, int, int]]:
    """Name, absolute offset and length of every file in a tar archive, or in one that lies inside another's range.

    Raises UserError where the archive is damaged or ends early.
    """
    members = []
    try:
        end = path.stat().st_size if length is None else offset + length
        with open(path, "rb") as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"{member.name} reaches beyond its end")
                    if member.isfile():
                        members.append((member.name, member.offset_data, member.size))
                # tarfile takes a damaged header, or that the file ends between two members, for the end of the archive.
                file.seek(archive.offset)
                block = file.read(min(tarfile.BLOCKSIZE, max(end - archive.offset, 0)))
                if any(block) or not block:
                    raise tarfile.ReadError(f"neither a member nor the archive's end at byte {archive.offset}")
    except tarfile.TarError as error:
        raise UserError(f"the archive {path} is damaged or cut short ({error}): get it again") from None
    except OSError as error:
        raise UserError(f"the archive {path} cannot be read ({error.strerror}): get it again") from None
    return members


def list_webdataset(root: Path, pool: Executor) -> Source:
    """WebDataset's archives, such as timm's imagenet1k-train-0000.tar: images, and with each a .cls or a .json with its label.

    Raises UserError where there is none for training, one is damaged, or a sample has not one image and one label.
    """
    archives = [path for path in sorted(root.glob("*.tar")) if split_of(path)]
    samples: dict[str, list[Sample]] = {"train": [], "val": []}
    for path, own in zip(archives, pool.map(_list_archive, archives, chunksize=4), strict=True):
        samples[split_of(path)] += own
    if not samples["train"]:
        raise UserError(f"{root} has no archives of training images: they are called such as imagenet1k-train-0000.tar")
    _tell_gaps(root, archives)
    return from_numbers(root, samples["train"], samples["val"])


def _tell_gaps(root: Path, archives: Iterable[Path]) -> None:
    """Numbers that lack between the first and the last may lack on purpose, or because a download has not ended."""
    numbers: dict[tuple[str, int], set[int]] = defaultdict(set)
    for path in archives:
        if numbered := re.fullmatch(r"(.*?)(\d+)", path.stem):
            numbers[numbered[1], len(numbered[2])].add(int(numbered[2]))
    for (name, digits), there in numbers.items():
        first, last = min(there), max(there)
        if lacking := last - first + 1 - len(there):
            one = next(number + 1 for number in sorted(there) if number + 1 not in there)
            between = f"{lacking} of the archives between {name}{first:0{digits}}.tar and {name}{last:0{digits}}.tar"
            tell(f"warning: {root} lacks {between}, such as {name}{one:0{digits}}.tar: their images are not packed")


def _list_archive(path: Path) -> list[Sample]:
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    members = list_tar(path)
    with open(path, "rb") as file:
        for name, offset, length in members:
            folder, _, file_name = name.rpartition("/")
            stem, _, ending = file_name.partition(".")
            key, ending = f"{folder}/{stem}", ending.lower()
            if f".{ending}" in ENDINGS:
                if key in images:
                    raise UserError(f"{path}: {images[key][0]} and {name} are images of one sample: give each a name of its own")
                images[key] = name, offset, length
            elif ending in ("cls", "json"):
                text = os.pread(file.fileno(), length, offset)
                if (label := _label(ending, text)) is not None:
                    if labels.setdefault(key, label) != label:
                        raise UserError(f"{path}: {name} has the label {label}, and another file of that sample {labels[key]}")
                elif ending == "cls":
                    raise UserError(f"{path}: {name} must hold the label in digits, not {text[:40]!r}: get the archive again")
    if not images:
        raise UserError(f"{path} holds no images: take it away or get it again")
    if alone := sorted(labels.keys() - images.keys()):
        endings = ", ".join(ENDINGS)
        raise UserError(f"{path}: {alone[0].lstrip('/')} has a label and no image ({endings}): get the archive again")
    for key, (name, _, _) in images.items():
        if key not in labels:
            raise UserError(f"{path}: {name} has no label beside it (a .cls, or a .json with label): WebDataset's have one")
    return [Sample(name, labels[key], str(path), offset, length) for key, (name, offset, length) in images.items()]


def _label(ending: str, text: bytes) -> int | None:
    try:
        said = text if ending == "cls" else json.loads(text)["label"]
        return None if isinstance(said, bool) or int(said) != float(said) else int(said)
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
