"""Hugging Face's parquet files: images as bytes in a column, labels as numbers in another."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from alexnet_dist.data.odd_files import UnusableImageError
from alexnet_dist.errors import UserError, reason_of
from alexnet_dist.packing.labels import from_numbers, split_of
from alexnet_dist.packing.samples import Sample, Source

_PART = re.compile(r"(.*)-(\d+)-of-(\d+)(?:-[0-9a-f]+)?\.parquet")  # with a sum of what is in it, from older programs


def parquet_files(root: Path) -> list[Path]:
    """Those of `root`, or else of its folder data/, for training and validation."""
    return [path for path in sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet")) if split_of(path)]


def list_parquet(root: Path) -> Source:
    """All rows of train-00000-of-00294.parquet and so on, and of validation-*.

    The columns are `image` (`bytes`, and perhaps `path`) and `label`, a whole number; classes are called as the file's own
    description of `label` has it. A test-* without labels is passed over.

    Raises UserError: pyarrow is not installed, a file is missing, damaged or has other columns, or the labels are none.
    """
    from alexnet_dist.formats.arrays import need  # imports torch, which the processes of the pool do not need

    need("pyarrow", "source=parquet", extra="parquet")
    files = parquet_files(root)
    _check_parts(files)
    words: list[str] = []
    samples: dict[str, list[Sample]] = {"train": [], "val": []}
    for path in files:
        own, names = _list_file(path)
        samples[split_of(path)] += own
        if names and words and names != words:
            raise UserError(f"{path} calls the classes otherwise than other files of {root}: get them again, all of one edition")
        words = words or names
    if not samples["train"]:
        raise UserError(f"{root} has no parquet files of training images: they are called such as train-00000-of-00294.parquet")
    return from_numbers(root, samples["train"], samples["val"], words)


def _check_parts(files: list[Path]) -> None:
    parts = [match for path in files if (match := _PART.fullmatch(path.name))]
    there = {(part[1], part[3], int(part[2])) for part in parts}
    for part in parts:
        for number in range(int(part[3])):
            if (part[1], part[3], number) not in there:
                name = f"{part[1]}-{number:0{len(part[2])}}-of-{part[3]}.parquet"
                raise UserError(f"{files[0].parent} lacks {name}: get the file that is missing")


def _list_file(path: Path) -> tuple[list[Sample], list[str]]:
    """The rows of a file, and the classes' names by label where it has any."""
    import pyarrow as pa
    from pyarrow import parquet

    samples = []
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            types = dict(zip(schema.names, schema.types, strict=True))
            image = types.get("image")
            if image is None or not pa.types.is_struct(image) or image.get_field_index("bytes") < 0:
                raise UserError(f"{path} has no column image with bytes in it; its columns are {', '.join(schema.names)}")
            if not pa.types.is_integer(types.get("label", pa.null())):
                raise UserError(f"{path} has no column label of whole numbers; its columns are {', '.join(schema.names)}")
            columns = ["label"] if image.get_field_index("path") < 0 else ["label", "image.path"]
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns)
                labels = rows["label"].to_pylist()
                entries = rows["image"].to_pylist() if len(columns) > 1 else [None] * len(labels)
                length = file.metadata.row_group(group).total_byte_size
                for row, (entry, label) in enumerate(zip(entries, labels, strict=True)):
                    called = (entry and entry["path"]) or f"{path.stem}_{group}_{row}"  # a row may have no image
                    samples.append(Sample(called, -1 if label is None else label, str(path), row, length, group=group))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged or cut short ({reason_of(error)}): get it again") from None
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return samples, list(about.get("info", {}).get("features", {}).get("label", {}).get("names", []))
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"{path} describes its labels in no way that is known (metadata huggingface): get it again") from None


@dataclass
class _Reading:
    """The row group under way in this process, from its row `at` on."""

    path: str
    group: int
    at: int
    images: Iterator[Any]


_reading: _Reading | None = None


def read_row(sample: Sample) -> bytes:
    """The image of a row. Rows of a row group that are asked for in their order are read once.

    Raises UnusableImageError where the row has no bytes, UserError where the file cannot be read.
    """
    global _reading
    import pyarrow as pa

    assert sample.group is not None
    try:
        reading = _reading
        if reading is None or (reading.path, reading.group) != (sample.path, sample.group) or reading.at > sample.offset:
            reading = _reading = _Reading(sample.path, sample.group, 0, _images(sample.path, sample.group))
        image = next(islice(reading.images, sample.offset - reading.at, None)).as_py()
        reading.at = sample.offset + 1
    except (pa.ArrowException, OSError, StopIteration) as error:
        _reading = None
        raise UserError(
            f"{sample.path} cannot be read ({reason_of(error)}): restore it and run the same command again"
        ) from None
    if image is None:
        raise UnusableImageError("its row has no bytes")
    return bytes(image)


def _images(path: str, group: int) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(path, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(64, row_groups=[group], columns=["image.bytes"], use_threads=False):
            yield from batch.column(0).field("bytes")
