"""A packed set: tar shards of JPEGs that WebDataset readers take, and an index that makes every sample a memory range."""

import json
import os
import resource
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from alexnet_dist.data.images import sum_of
from alexnet_dist.data.statistics import Statistics
from alexnet_dist.errors import UserError
from alexnet_dist.files import sha256_of

FORMAT = "alexnet_dist packed set 1"
MANIFEST = "manifest.json"
STATISTICS = "statistics.npz"
SKIPPED = "skipped.tsv"
SPLITS = ("train", "val")
WORK_FOLDER = ".preparing"

# One row a sample, in the order of the shards. `offset` is that of the JPEG's first byte in its shard; the tar header
# with the member's name is the block before it. `crc` is zlib's CRC-32 of the JPEG.
INDEX_ROW = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4"), ("shard", "<u4"), ("label", "<i4")])


@dataclass(frozen=True)
class ClassName:
    """A class as its source calls it (a WordNet id, a folder) and in words; classes are numbered by their order."""

    id: str
    words: str


def shard_name(split: str, shard: int) -> str:
    return f"{split}-{shard:06d}.tar"


def index_name(split: str) -> str:
    return f"{split}-index.npy"


def member_before(shard: bytes | np.ndarray, offset: int) -> str:
    """The name in the tar header before a JPEG."""
    header = offset - tarfile.BLOCKSIZE
    return bytes(shard[header : header + tarfile.LENGTH_NAME]).split(b"\0", 1)[0].decode("ascii", "backslashreplace")


def crc_of(encoded: bytes | memoryview) -> int:
    """The checksum of the index."""
    return isal_zlib.crc32(encoded)  # zlib's own takes eight times as long


def is_packed(root: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a packed set, finished or not."""
    return (Path(root) / MANIFEST).is_file() or (Path(root) / WORK_FOLDER).is_dir()


def read_manifest(root: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a finished packed set. Raises UserError where there is none or it is not of this format."""
    path = Path(root) / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if is_packed(root):
            raise UserError(
                f"{root} holds a packed set that is not finished: run `python -m alexnet_dist.prepare` on it again"
            ) from None
        raise UserError(
            f"{root} holds no packed set (it has no {MANIFEST}): make one with `python -m alexnet_dist.prepare`"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): prepare the set again, into another folder") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not the manifest of '{FORMAT}': prepare the set with this version, into another folder")
    return manifest


def read_statistics(root: str | os.PathLike[str]) -> Statistics:
    """The mean image and colours of a packed set's training images, gathered when it was prepared.

    The mean image has the side of the stored squares, 256 where the originals were kept. Raises UserError where the file is
    missing or not the packed one.
    """
    path = Path(root) / STATISTICS
    entry = read_manifest(root)["files"][STATISTICS]
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): restore it or prepare the set again") from None
    if sha256 != entry["sha256"]:
        raise UserError(f"{path} has gone bad (its checksum is not the packed one): restore it or prepare the set again")
    return Statistics.load(path)


class PackedImages:
    """One split of a packed set: its encoded images by number, straight from the memory-mapped shards.

    A shard is mapped when one of its samples is first read. Only the labels (8 bytes a sample) are held in memory; index
    and shards are the page cache's. Safe to fork and to read from several threads.

    Attributes, beside those of all `Images`:
        source: what the set was packed from, as `prepare` calls it.
        side: of the stored squares, in pixels; None where the originals were kept.
    """

    def __init__(self, root: str | os.PathLike[str], split: str, manifest: Mapping[str, Any]) -> None:
        """Open the index; raises UserError where files are missing or not as long as the manifest says."""
        self._root = Path(root)
        self._split = split
        self._shards: list[dict[str, Any]] = manifest["splits"][split]["shards"]
        self.classes = tuple(entry["words"] for entry in manifest["classes"])
        self.class_ids = tuple(entry["id"] for entry in manifest["classes"])
        self.source = str(manifest["source"])
        size = manifest["options"]["size"]
        self.side = None if size == "keep" else int(size)
        path = self._root / index_name(split)
        try:
            self._index: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"the index {path} cannot be read ({error}): prepare the set again") from None
        if self._index.dtype != INDEX_ROW or len(self._index) != manifest["splits"][split]["images"]:
            raise UserError(f"the index {path} is not the one its manifest describes: prepare the set again")
        self.labels = self._index["label"].astype(np.int64)
        self._maps: list[np.ndarray | None] = [None] * len(self._shards)

    def __len__(self) -> int:
        return len(self._index)

    def read(self, index: int) -> np.ndarray:
        """The encoded image: uint8 [bytes], a read-only view into the shard. Raises UserError where it has gone bad."""
        offset, length, crc, shard, _ = self._index[index].item()
        encoded = self._mapped(shard)[offset : offset + length]
        if crc_of(encoded.data) != crc:
            raise UserError(
                f"sample {self.name(index)} in {self._root} has gone bad (its checksum is not the packed one): find the "
                f"extent with `python -m alexnet_dist.prepare verify={self._root}`, then copy or prepare the set again"
            )
        return encoded

    def name(self, index: int) -> str:
        """'shard:sample', as in train-000012.tar:00049152_n01440764_10026.jpg."""
        offset, _, _, shard, _ = self._index[index].item()
        return f"{self._shards[shard]['file']}:{member_before(self._mapped(shard), offset)}"

    def fingerprint(self) -> str:
        return sum_of(self._split.encode(), self._index, self.class_ids)

    def _mapped(self, shard: int) -> np.ndarray:
        """The bytes of a shard, mapped when they are first asked for."""
        if (mapped := self._maps[shard]) is None:
            entry = self._shards[shard]
            path = self._root / entry["file"]
            check_size(path, entry["bytes"])
            try:
                mapped = np.memmap(path, np.uint8, "r").view(np.ndarray)
            except OSError as error:
                raise UserError(
                    f"shard {path} cannot be opened ({error.strerror}): there are {len(self._shards)}, and `ulimit -n` says how "
                    "many files a process may have open"
                ) from None
            self._maps[shard] = mapped
        return mapped


def open_packed(root: str | os.PathLike[str]) -> tuple[PackedImages, PackedImages]:
    """The train and val images of a finished packed set (val is empty where the source had none).

    Raises UserError where the folder holds none, the set is not finished, or a shard is missing or cut short.
    """
    manifest = read_manifest(root)
    for split in SPLITS:
        for entry in manifest["splits"][split]["shards"]:
            check_size(Path(root) / entry["file"], entry["bytes"])
    train, val = (PackedImages(root, split, manifest) for split in SPLITS)
    _let_open(sum(len(manifest["splits"][split]["shards"]) for split in SPLITS))
    return train, val


def _let_open(files: int) -> None:
    """Let this process have so many files open beside its others: a mapped file counts as one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files + 512
    if soft < wanted and soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def check_size(path: Path, expected: int) -> None:
    """Raises UserError where a shard is missing or not as long as its manifest says."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"shard {path} cannot be opened ({error.strerror}): restore it or prepare the set again") from None
    if size != expected:
        raise UserError(
            f"shard {path} has {size} bytes where its manifest says {expected}: "
            "copy it again from where it is whole, or prepare the set again"
        )
