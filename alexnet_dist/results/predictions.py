"""What nets say of every image of a validation set, gathered and kept as a file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.distributed as dist

from alexnet_dist.data.feed import ValidationFeed
from alexnet_dist.data.images import Images
from alexnet_dist.errors import UserError
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.results.validation import Voter, measure
from alexnet_dist.text import printable
from alexnet_dist.tracking.display import Display


@dataclass(frozen=True)
class Predictions:
    """Of n images, in the order of the validation set.

    probabilities: float32 [n, outputs], where the outputs beyond the classes have no name. labels: int64 [n]. names: str [n],
    where each image is. classes, class_ids: str [classes], by label.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    classes: np.ndarray
    class_ids: np.ndarray

    def best(self, count: int, outputs: int | None = None) -> np.ndarray:
        """The labels of the `count` most probable of the first `outputs` (None: of the classes), int64 [n, count]; of equal ones
        the first counts as better."""
        ranked = self.probabilities[:, : len(self.classes) if outputs is None else outputs]
        return np.argsort(-ranked, axis=1, kind="stable")[:, :count]

    def save(self, file: BinaryIO) -> None:
        """Write them as .npz, an array for each attribute."""
        np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Read what `save` wrote. Raises UserError where the file is something else."""
        try:
            with np.load(path) as saved:
                return cls(**{name: saved[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} holds no predictions ({error}): make it with evaluate's predictions=") from None


def output_names(classes: Iterable[str], outputs: int) -> list[str]:
    """A name for each output, to be shown: those beyond the images' classes are never right, but can be said."""
    names = [printable(str(name)) for name in classes]
    return [*names, *(f"output {number}" for number in range(len(names), outputs))]


def predict_split(
    voters: Sequence[Voter],
    images: Images,
    feed: ValidationFeed,
    mesh: Mesh,
    display: Display,
    weights: Sequence[float] | None = None,
) -> tuple[dict[str, Any], Predictions | None]:
    """`measure`'s figures, the same on every rank, and on rank 0 the predictions; every rank takes part.

    `feed` brings `images`, which number their classes as the voters do.
    """
    whole = torch.zeros(len(images), voters[0].net.table.classes)

    def keep(samples: torch.Tensor, probabilities: torch.Tensor) -> None:
        if mesh.share == 0:  # all shares of a replica hold the same
            real = samples >= 0
            whole[samples[real].cpu()] = probabilities[real].cpu()

    figures = measure(voters, feed, mesh, display, keep=keep, weights=weights)
    dist.reduce(whole, dst=0, group=mesh.host_group)  # each row is zero on all ranks but one
    if mesh.rank:
        return figures, None
    return figures, Predictions(
        probabilities=whole.numpy(),
        labels=images.labels,
        names=np.array([images.name(index) for index in range(len(images))]),
        classes=np.array(images.classes),
        class_ids=np.array(images.class_ids),
    )
