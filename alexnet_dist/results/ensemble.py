"""How much each of several nets counts in their average: weights found on images with labels."""

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch
import torch.distributed as dist

from alexnet_dist.data.feed import ValidationFeed
from alexnet_dist.data.images import Images, Subset
from alexnet_dist.errors import UserError
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.results.validation import Voter
from alexnet_dist.tracking.display import Display

_CLOSE, _MOST_ROUNDS = 1e-8, 10_000


def halves(images: Images) -> tuple[Subset, Subset]:
    """Every second image from the first, and the others. Where images lie by class, both halves have all classes alike.

    Raises UserError: there is one image alone.
    """
    if len(images) < 2:
        raise UserError("ensemble=found needs two validation images at least: name more with data.root or give the weights")
    return Subset(images, range(0, len(images), 2)), Subset(images, range(1, len(images), 2))


def right_chances(voters: Sequence[Voter], batches: ValidationFeed, images: int, mesh: Mesh, display: Display) -> np.ndarray:
    """The probability that each voter gives the right class of each of the images: float64 [images, voters], on every rank."""
    found = torch.zeros(images, len(voters), dtype=torch.float64)
    with torch.inference_mode(), closing(iter(batches)) as passing:
        for done, (pixels, labels, samples) in enumerate(passing, 1):
            real = samples >= 0
            votes = torch.stack([voter.probabilities(pixels, mesh)[0] for voter in voters], dim=2)  # [b, classes, voters]
            if mesh.share == 0:  # all shares of a replica hold the same
                right = votes[real].gather(1, labels[real][:, None, None].expand(-1, 1, len(voters)))
                found[samples[real].cpu()] = right[:, 0].double().cpu()
            display.show("weights", done, len(batches))
    dist.all_reduce(found, group=mesh.host_group)  # each row is zero on all ranks but one
    mesh.peers.rest()
    return found.numpy()


def find_weights(chances: np.ndarray) -> list[float]:
    """Of the right classes' probabilities [images, voters] the weights, none negative and 1 together, whose average has the
    least mean negative log-likelihood.

    That is a convex problem; expectation-maximisation for the shares of a mixture (Dempster, Laird and Rubin, 1977, section 4.3)
    finds its solution.
    """
    chances = np.maximum(chances, np.finfo(np.float32).tiny)
    weights = np.full(chances.shape[1], 1 / chances.shape[1])
    for _ in range(_MOST_ROUNDS):
        before, weights = weights, weights * (chances / (chances @ weights)[:, None]).mean(axis=0)
        if np.abs(weights - before).max() < _CLOSE:
            break
    return [float(weight) for weight in weights / weights.sum()]
