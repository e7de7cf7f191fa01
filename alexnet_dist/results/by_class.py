"""Errors class by class: which classes a net knows, and what it takes the others for."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from rich.table import Table

from alexnet_dist import text
from alexnet_dist.results.predictions import Predictions, output_names

TABLE_WIDTH = 110  # a narrow terminal may fold the table's lines, but nothing is cut


@dataclass(frozen=True)
class ClassErrors:
    """Of one class: its images, the fractions wrong in the first one and the first five, and what it was most often taken for.

    `confused_with` is empty where no image was taken for another class.
    """

    class_id: str
    name: str
    images: int
    top1_error: float
    top5_error: float
    confused_with: str
    confused: int


def errors_by_class(predictions: Predictions) -> list[ClassErrors]:
    """The classes that have images, the worst first. An output beyond them is never right, but can be said."""
    outputs = predictions.probabilities.shape[1]
    names = output_names(predictions.classes, outputs)
    best = predictions.best(5, outputs)
    right = best == predictions.labels[:, None]
    rows = []
    for label, class_id in enumerate(predictions.class_ids):
        own = predictions.labels == label
        if not own.any():
            continue
        taken_for = np.bincount(best[own, 0], minlength=outputs)
        taken_for[label] = 0
        other, times = int(taken_for.argmax()), int(taken_for.max())
        rows.append(
            ClassErrors(
                class_id=text.printable(str(class_id)),
                name=names[label],
                images=int(own.sum()),
                top1_error=1 - float(right[own, 0].mean()),
                top5_error=1 - float(right[own].any(axis=1).mean()),
                confused_with=names[other] if times else "",
                confused=times,
            )
        )
    return sorted(rows, key=lambda row: (-row.top1_error, -row.top5_error))


def table(rows: Sequence[ClassErrors]) -> Table:
    """The rows as a table for a terminal."""
    with_ids = any(row.class_id != row.name for row in rows)
    numbers = ("images", "top-1 error", "top-5 error")
    cells = []
    for row in rows:
        confused = f"{row.confused_with} ({row.confused})" if row.confused else ""
        own = (row.name, f"{row.images}", f"{row.top1_error:.2%}", f"{row.top5_error:.2%}", confused)
        cells.append((row.class_id, *own) if with_ids else own)
    headings = ("class", *numbers, "most often taken for")
    return text.table("", ("id", *headings) if with_ids else headings, cells, numbers)


def write_csv(rows: Sequence[ClassErrors], file: BinaryIO) -> None:
    """The rows as CSV, UTF-8, with a head line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class_id", "class", "images", "top1_error", "top5_error", "confused_with", "confused"])
    for row in rows:
        errors = f"{row.top1_error:.6f}", f"{row.top5_error:.6f}"
        writer.writerow([row.class_id, row.name, row.images, *errors, row.confused_with, row.confused])
    file.write(text.getvalue().encode())
