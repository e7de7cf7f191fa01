"""One shard of a packed set, from its samples to the published files: what a process of `prepare` does, again and again.

A shard is published by two renames: the tar first, then its record (index rows, sums for the statistics, skipped files,
checksum). A shard with a record is done; whatever else a killed run left is made again. Every byte follows from the samples
and the options alone, so neither the number of processes nor a kill can change it.
"""

import errno
import io
import json
import multiprocessing
import os
import re
import tarfile
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from alexnet_dist.data.odd_files import UnusableImageError, crop_square, decode, encode_jpeg
from alexnet_dist.data.packed import INDEX_ROW, WORK_FOLDER, crc_of, shard_name
from alexnet_dist.data.statistics import Sums
from alexnet_dist.errors import UserError
from alexnet_dist.files import sha256_of, whole_file
from alexnet_dist.packing.samples import Sample

_progress: "Synchronized[int] | None" = None
_stop: Event | None = None


@dataclass(frozen=True)
class ShardJob:
    """A shard to make: samples number `first` and on of `split`, in shard order.

    `size` is the side of the stored square in pixels, None to keep the originals; `statistics_size` that of the mean image,
    None where no sums are wanted.
    """

    output: Path
    split: str
    number: int
    first: int
    samples: Sequence[Sample]
    size: int | None
    quality: int
    statistics_size: int | None


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a finished shard. `rows` are INDEX_ROWs; `skipped` pairs of a file's name and the reason."""

    rows: np.ndarray
    sums: Sums | None
    skipped: tuple[tuple[str, str], ...]
    size: int
    sha256: str


class StoppedError(Exception):
    """The run is ending; the shard is left for the next one."""


def start_worker(progress: "Synchronized[int]", stop: Event) -> None:
    """Prepare a process of the pool.

    It counts finished samples into `progress`, leaves its shard where it is once `stop` is set, and dies when its parent does.
    """
    global _progress, _stop
    _progress, _stop = progress, stop
    warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters raises
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def die_with_parent() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


def make_shard(job: ShardJob) -> None:
    """Write and publish one shard and its record. Raises UserError where a source's file has gone or the disk is full."""
    path = job.output / shard_name(job.split, job.number)
    try:
        with whole_file(path, to_disk=True) as file:
            rows, sums, skipped = _pack(job, file)
        _write_record(job, ShardRecord(rows, sums, skipped, path.stat().st_size, sha256_of(path)))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no room is left for {job.output}: make room and run the same command again") from None
        raise


def _pack(job: ShardJob, file: BinaryIO) -> tuple[np.ndarray, Sums | None, tuple[tuple[str, str], ...]]:
    """Write the shard's samples; returns the first three fields of its record."""
    rows: list[tuple[int, int, int, int, int]] = []
    skipped: list[tuple[str, str]] = []
    sums = None if job.statistics_size is None else Sums.zero(job.statistics_size)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for position, sample in enumerate(job.samples, job.first):
            if _stop is not None and _stop.is_set():
                raise StoppedError
            try:
                encoded, image = _image_of(job, sample)
            except UnusableImageError as reason:
                skipped.append((sample.name, str(reason)))
            else:
                key = sample_key(position, sample.name)
                offset = _add_member(tar, f"{key}.jpg", encoded)
                _add_member(tar, f"{key}.cls", str(sample.label).encode())
                rows.append((offset, len(encoded), crc_of(encoded), job.number, sample.label))
                if sums is not None:
                    sums.add_images(np.asarray(crop_square(image, len(sums.pixels)))[None])
            if _progress is not None:
                with _progress.get_lock():
                    _progress.value += 1
    return np.array(rows, INDEX_ROW), sums, tuple(skipped)


def sample_key(position: int, name: str) -> str:
    """The WebDataset key of a sample: its number in the split, then its name's file stem in plain letters."""
    stem = Path(name).stem.encode("ascii", "replace").decode()
    return f"{position:08d}_{re.sub('[^A-Za-z0-9_-]', '_', stem)[:80]}"


def _image_of(job: ShardJob, sample: Sample) -> tuple[bytes, Image.Image]:
    """The JPEG to store, and the image it shows."""
    original = _read(sample)
    if job.size is not None:
        square = crop_square(decode(original, draft_size=job.size)[0], job.size)
        return encode_jpeg(square, job.quality), square
    image, plain = decode(original)
    from alexnet_dist.packing.dali_check import dali_takes  # DALI, where originals are kept

    kept = plain and dali_takes(original, *image.size)
    return original if kept else encode_jpeg(image, job.quality), image


def _read(sample: Sample) -> bytes:
    if sample.data is not None:
        return sample.data
    if sample.group is not None:
        from alexnet_dist.packing.parquet import read_row

        return read_row(sample)
    if sample.length < 0:
        raise UnusableImageError("cannot be opened (a link to nothing, or no permission)")
    try:
        with open(sample.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), sample.length, sample.offset)
    except OSError as error:
        raise UserError(
            f"{sample.path} cannot be read any more ({error.strerror}): restore it and run the same command again"
        ) from None
    if len(data) != sample.length:
        raise UserError(f"{sample.path} is shorter than it was: restore it and run the same command again")
    return data


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a file and return the offset of its first byte; the header holds nothing of this machine or moment."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    header.mode = 0o444
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(header, io.BytesIO(data))
    return offset


# --------------------------------------------------------------------------------------------------------- the records


def record_path(output: Path, split: str, number: int) -> Path:
    return output / WORK_FOLDER / f"{split}-{number:06d}.npz"


def _write_record(job: ShardJob, record: ShardRecord) -> None:
    path = record_path(job.output, job.split, job.number)
    about = {"skipped": record.skipped, "size": record.size, "sha256": record.sha256}
    arrays: dict[str, Any] = {"rows": record.rows, "about": np.array(json.dumps(about))}
    if record.sums is not None:
        # A shard's sums of pixels fit into 32 bits: 255 times its images.
        arrays |= {
            "images": np.array(record.sums.images),
            "pixels": record.sums.pixels.astype(np.uint32),
            "products": record.sums.products,
        }
    with whole_file(path, to_disk=True) as file:
        np.savez(file, **arrays)


def read_record(output: Path, split: str, number: int) -> ShardRecord:
    with np.load(record_path(output, split, number)) as arrays:
        about = json.loads(str(arrays["about"]))
        sums = None
        if "pixels" in arrays:
            sums = Sums(int(arrays["images"]), arrays["pixels"].astype(np.int64), arrays["products"])
        skipped = tuple((name, reason) for name, reason in about["skipped"])
        return ShardRecord(arrays["rows"], sums, skipped, about["size"], about["sha256"])
