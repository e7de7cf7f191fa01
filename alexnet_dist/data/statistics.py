"""The mean image and the principal components of the colours of a split (paper, sections 2 and 4.1), from exact sums."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_dist.data.bad_image import BadImage, BadImageError
from alexnet_dist.data.images import Images
from alexnet_dist.data.sampling import epoch_order

if TYPE_CHECKING:
    import torch

_BATCH = 32


@dataclass(frozen=True)
class Statistics:
    """Of the centre squares of `images` images, values on the 0..255 scale.

    mean_image: float32 [3, size, size]. eigenvectors: float64 [3, 3], in its columns those of the covariance of RGB values over
    all pixels, by falling eigenvalue, the largest entry of each positive. deviations: float64 [3], the eigenvalues' square roots.
    """

    mean_image: np.ndarray
    eigenvectors: np.ndarray
    deviations: np.ndarray
    images: int

    def save(self, path: str | Path) -> None:
        """Write them as .npz."""
        with open(path, "wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Read what `save` wrote."""
        with np.load(path) as saved:
            return cls(saved["mean_image"], saved["eigenvectors"], saved["deviations"], int(saved["images"]))


@dataclass
class Sums:
    """Whole numbers that statistics follow from, so that no order of adding matters.

    `pixels` int64 [size, size, 3]: over images. `products` int64 [3, 3]: of the channels' values, over images and pixels.
    """

    images: int
    pixels: np.ndarray
    products: np.ndarray

    @classmethod
    def zero(cls, size: int) -> "Sums":
        return cls(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

    def add_images(self, squares: np.ndarray) -> None:
        """Add images, uint8 [b, size, size, 3]."""
        self.images += len(squares)
        self.pixels += squares.sum(axis=0, dtype=np.int64)
        # Whole numbers below 2^53, so that float64 (and with it BLAS) adds them exactly, in whatever order.
        values = squares.reshape(-1, 3).astype(np.float64)
        self.products += (values.T @ values).astype(np.int64)

    def add(self, other: "Sums") -> None:
        self.images += other.images
        self.pixels += other.pixels
        self.products += other.products

    def channel_means(self) -> np.ndarray:
        """float64 [3], on the 0..255 scale."""
        return self.pixels.sum((0, 1)) / (self.images * self.pixels.shape[0] * self.pixels.shape[1])

    def statistics(self) -> Statistics:
        count = self.images * self.pixels.shape[0] * self.pixels.shape[1]
        channels = [int(total) for total in self.pixels.sum((0, 1))]
        # In Python's whole numbers: the difference of two large sums loses nothing before the one division.
        covariance = np.array(
            [[(int(self.products[i, j]) * count - channels[i] * channels[j]) / count**2 for j in range(3)] for i in range(3)]
        )
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
        eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
        # An eigenvector's sign is arbitrary: its largest entry is made positive.
        largest = eigenvectors[np.abs(eigenvectors).argmax(0), range(3)]
        return Statistics(
            mean_image=np.ascontiguousarray((self.pixels / self.images).transpose(2, 0, 1).astype(np.float32)),
            eigenvectors=np.ascontiguousarray(eigenvectors * np.sign(largest)),
            deviations=np.sqrt(np.maximum(eigenvalues, 0.0)),
            images=self.images,
        )


def gather(
    images: Images,
    size: int,
    threads: int,
    device: "torch.device",
    limit: int | None,
    progress: Callable[[int, int], None],
    leave_out: Callable[[BadImage], None] | None = None,
) -> Statistics:
    """The statistics of at most `limit` images (None: all), the same choice for every run.

    `progress` is told how many images of how many are done; `leave_out` of each bad image, which does not count then. Without
    it BadImageError is raised, and where no image is left.
    """
    # Imported here because the processes of `prepare` add up sums too, and need neither torch nor DALI.
    from alexnet_dist.data.decode import Crops, decode

    count = len(images) if limit is None else min(limit, len(images))
    chosen = np.sort(epoch_order(0, 0, len(images))[:count])
    sums = Sums.zero(size)
    while sums.images < len(chosen):
        left = chosen[sums.images :]
        requests = ((Crops.whole(left[first : first + _BATCH]), None) for first in range(0, len(left), _BATCH))
        try:
            for pixels, _ in decode(images, requests, size=size, crop=size, batch_size=_BATCH, threads=threads, device=device):
                sums.add_images(pixels.cpu().numpy())
                progress(sums.images, count)
        except BadImageError as error:
            if leave_out is None:
                raise
            leave_out(error.bad)
            chosen = chosen[chosen != error.bad.sample]
            if not len(chosen):
                sentence = f"all {count} training images that were to make the mean image are bad: {error.bad.sentence}"
                raise BadImageError(replace(error.bad, sentence=sentence)) from None
    return sums.statistics()
