"""Mean image and colour statistics (paper, sections 2 and 4.1) from exact sums, so that no order of adding matters."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from alexnet_dist.data.statistics import Statistics


@dataclass
class Sums:
    """Exact sums over the images of a shard, or of all.

    `pixels` int64 [size, size, 3]: over images. `products` int64 [3, 3]: of the channels' values, over images and pixels.
    """

    images: int
    pixels: np.ndarray
    products: np.ndarray

    @classmethod
    def zero(cls, size: int) -> "Sums":
        return cls(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

    def add_image(self, square: Image.Image) -> None:
        """Add an RGB image of the sums' size."""
        pixels = np.asarray(square)
        self.images += 1
        self.pixels += pixels
        # Whole numbers below 2^53, so that float64 (and with it BLAS) adds them exactly, in whatever order.
        values = pixels.reshape(-1, 3).astype(np.float64)
        self.products += (values.T @ values).astype(np.int64)

    def add(self, other: "Sums") -> None:
        self.images += other.images
        self.pixels += other.pixels
        self.products += other.products

    def channel_means(self) -> np.ndarray:
        """float64 [3], on the 0..255 scale."""
        return self.pixels.sum((0, 1)) / (self.images * self.pixels.shape[0] * self.pixels.shape[1])

    def statistics(self) -> "Statistics":
        """The mean image, and the principal components of the RGB values over all pixels of all images."""
        from alexnet_dist.data.statistics import Statistics

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
