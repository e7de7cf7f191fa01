"""Rows of Hugging Face's parquet files: read once, named, without an image; what their classes are called."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from alexnet_dist.data.odd_files import UnusableImageError
from alexnet_dist.packing import parquet as reading
from alexnet_dist.packing.parquet import list_parquet, read_row
from tests.packing.forms import as_parquet, imagenet, write_parquet


def test_rows_of_a_row_group_are_read_once_and_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(f"{number}.JPEG", "", b"%d" % number) for number in range(20)]
    write_parquet(tmp_path / "train-00000-of-00001.parquet", files, [number % 2 for number in range(20)], row_group_size=7)
    source = list_parquet(tmp_path)
    assert [[int(read_row(sample)) for sample in block] for block in source.blocks()] == [
        list(range(7)), list(range(7, 14)), list(range(14, 20)),
    ]  # fmt: skip
    opened = []
    images = reading._images
    monkeypatch.setattr(reading, "_images", lambda path, group: opened.append(group) or images(path, group))
    assert [int(read_row(sample)) for sample in source.train[:14:2]] == [0, 2, 4, 6, 8, 10, 12]
    assert int(read_row(source.train[1])) == 1
    assert opened == [0, 1, 0]


def test_a_row_without_bytes_is_no_image(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00001.parquet", [("a.JPEG", "", None), ("b.JPEG", "", b"b")], [0, 1])  # type: ignore[list-item]
    first, second = list_parquet(tmp_path).train
    with pytest.raises(UnusableImageError, match="its row has no bytes"):
        read_row(first)
    assert read_row(second) == b"b"


def test_a_row_without_an_image_is_named_as_one(tmp_path: Path) -> None:
    images = pa.array([{"bytes": b"a", "path": "a.JPEG"}, None], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    parquet.write_table(pa.table({"image": images, "label": [0, 0]}), tmp_path / "train-00000-of-00001.parquet")
    first, second = list_parquet(tmp_path).train
    assert (first.name, second.name) == ("a.JPEG", "train-00000-of-00001_0_1")
    assert read_row(first) == b"a"
    with pytest.raises(UnusableImageError, match="its row has no bytes"):
        read_row(second)


def test_classes_are_called_as_the_training_files_have_it_where_validation_says_nothing(tmp_path: Path) -> None:
    words = {"n02000003": "crane", "n02000001": "tench, Tinca tinca"}
    as_parquet(tmp_path, words, *imagenet(words, 2, lambda *_: b"-"))
    told = list_parquet(tmp_path).classes
    path = tmp_path / "data/validation-00000-of-00001.parquet"
    parquet.write_table(parquet.read_table(path).replace_schema_metadata({}), path)
    assert list_parquet(tmp_path).classes == told
    assert [entry.words for entry in told] == [words[wnid] for wnid in sorted(words)]
