"""The training error: how many of the images trained on were guessed wrong, in passing and without another forward pass."""

import torch
import torch.distributed as dist

from alexnet_dist.parallel.mesh import Mesh


class ErrorCount:
    """Images trained on since the last line of metrics.jsonl, and how many of them were guessed wrong, over all replicas.

    Each image is guessed by the parameters of its own step, before the update, with dropout and from the crop that it is trained
    on.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._group = mesh.replica_group
        self._wrong, self._images = 0, 0
        self._own_wrong = torch.zeros((), dtype=torch.int64, device=mesh.device)

    def add(self, wrong: torch.Tensor, images: int) -> None:
        """A step over `images` images of all replicas; `wrong`, an integer scalar, counts this replica's."""
        self._own_wrong += wrong
        self._images += images

    def total(self) -> tuple[int, int]:
        """Images guessed wrong and images; every rank takes part and gets the same."""
        dist.all_reduce(self._own_wrong, group=self._group)
        self._wrong += int(self._own_wrong)
        self._own_wrong.zero_()
        return self._wrong, self._images

    def restore(self, total: tuple[int, int]) -> None:
        """Go on from what `total` returned."""
        self._wrong, self._images = total
        self._own_wrong.zero_()

    def read(self) -> float:
        """The share of images guessed wrong, and begin anew; every rank takes part and gets the same."""
        wrong, images = self.total()
        self.restore((0, 0))
        return wrong / images
