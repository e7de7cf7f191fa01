"""The file that ILSVRC's server takes: a line an image, in the images' order, its five best labels by the devkit's numbers."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet_dist.data.images import Images
from alexnet_dist.data.packed import PackedImages
from alexnet_dist.errors import UserError
from alexnet_dist.packing.ilsvrc2012 import read_devkit
from alexnet_dist.results.predictions import Predictions

LABELS = 5
_NUMBERED_IMAGE = re.compile(r"ILSVRC\d{4}_(?:val|test)_(\d{8})")
_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class SubmissionPlan:
    """`order`: the images' indices in the order of the lines, int64 [n]. `numbers`: the number of each class by its id."""

    order: np.ndarray
    numbers: dict[str, int]

    def write(self, predictions: Predictions, file: BinaryIO) -> None:
        """Five numbers a line, separated by spaces, the best first."""
        numbers = np.array([self.numbers[str(name)] for name in predictions.class_ids])
        np.savetxt(file, numbers[predictions.best(LABELS)][self.order], fmt="%d")


def plan_submission(images: Images, devkit: Path | None, say: Callable[[str], None]) -> SubmissionPlan:
    """How `images` and their classes are numbered; found out before any image is looked at.

    A class has its ILSVRC2012_ID where the devkit is given or the images were packed from ILSVRC2012's archives. Of classes that
    are none of the challenge's it is the place in their own order, which is said. Images are in the order of their ILSVRC
    numbers, or as they come where none has one.

    Raises UserError: fewer than five classes, classes that the devkit does not know or whose numbers it alone knows, a numbered
    image that is missing or there twice, or one without a number among them.
    """
    ids, expected = images.class_ids, 0
    if len(ids) < LABELS:
        raise UserError(f"a submission names {LABELS} classes an image and there are {len(ids)}: leave submission= out")
    if devkit is not None:
        classes, truth = read_devkit(devkit)
        known, expected = {entry.id: number for number, entry in enumerate(classes, 1)}, len(truth)
        if unknown := [name for name in ids if name not in known]:
            raise UserError(f"the class {unknown[0]} is not in {devkit}: leave devkit= out, or take the challenge's images")
        numbers = {name: known[name] for name in ids}
    else:
        packed = isinstance(images, PackedImages) and images.source == "ilsvrc2012"
        if not packed and all(_WORDNET_ID.fullmatch(name) for name in ids):
            raise UserError(
                "only the devkit knows the challenge's numbers of these classes: name it with devkit=ILSVRC2012_devkit_t12.tar.gz"
            )
        numbers = {name: number for number, name in enumerate(ids, 1)}
        if not packed:
            say("submission: these are not the challenge's classes; they are numbered from 1 in their own order")
    return SubmissionPlan(_order(images, expected), numbers)


def _order(images: Images, expected: int) -> np.ndarray:
    found = [_NUMBERED_IMAGE.search(images.name(index)) for index in range(len(images))]
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        return np.arange(len(images))
    if len(numbers) < len(images):
        raise UserError(
            f"{images.name(found.index(None))} has no number of the challenge and other images have: take it away, for a "
            "submission's lines are in the order of these numbers"
        )
    present = Counter(numbers)
    if len(present) < len(numbers):
        twice = numbers.index(present.most_common(1)[0][0])
        raise UserError(f"{images.name(twice)} has a number that another image has too: take one of them away")
    missing = next((number for number in range(1, max([expected, *numbers]) + 1) if number not in present), None)
    if missing is not None:
        raise UserError(
            f"image {missing} of the challenge is missing, and a submission has a line for each: "
            "put it back (skipped.tsv of a packed set says why it was left out)"
        )
    return np.argsort(numbers, kind="stable")
