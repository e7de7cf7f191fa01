"""What `prepare` packs: every image file of a source, where its bytes are, and its class. No image is read here."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

from alexnet_dist.data.packed import ClassName


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file: `length` bytes of `path` from `offset`, or `data` itself where the source keeps bare pixels.

    In a parquet file it is the `offset`-th row of the row group `group`, all of which takes `length` bytes. A length of -1 is a
    file that can be listed and not opened.
    """

    name: str
    label: int
    path: str = ""
    offset: int = 0
    length: int = 0
    data: bytes | None = None
    group: int | None = None

    @classmethod
    def of_file(cls, name: str, label: int, path: str) -> "Sample":
        """All of a file, as it is now."""
        try:
            length = os.stat(path).st_size if os.access(path, os.R_OK) else -1
        except OSError:
            length = -1
        return cls(name, label, path, 0, length)


@dataclass(frozen=True)
class Source:
    """All samples of a source, in its own order, and its classes by label."""

    classes: Sequence[ClassName]
    train: Sequence[Sample]
    val: Sequence[Sample]

    def in_order(self, classes: Sequence[ClassName]) -> "Source":
        """The same with its classes in another order (and other words)."""
        label_of = {entry.id: label for label, entry in enumerate(classes)}
        new = [label_of[entry.id] for entry in self.classes]
        train, val = ([replace(sample, label=new[sample.label]) for sample in samples] for samples in (self.train, self.val))
        return Source(classes, train, val)

    def blocks(self) -> list[list[Sample]]:
        """The training samples in runs that are read together: the rows of a row group, else each alone."""
        keys = (number if each.group is None else (each.path, each.group) for number, each in enumerate(self.train))
        return [[sample for _, sample in run] for _, run in groupby(zip(keys, self.train, strict=True), itemgetter(0))]

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
