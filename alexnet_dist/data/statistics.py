"""The mean image and the principal components of the colours of a split (paper, sections 2 and 4.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alexnet_dist.data.decode import Crops, decode
from alexnet_dist.data.images import Images
from alexnet_dist.data.sampling import epoch_order

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
            np.savez(
                file,
                mean_image=self.mean_image,
                eigenvectors=self.eigenvectors,
                deviations=self.deviations,
                images=np.int64(self.images),
            )

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Read what `save` wrote."""
        with np.load(path) as saved:
            return cls(saved["mean_image"], saved["eigenvectors"], saved["deviations"], int(saved["images"]))


def gather(
    images: Images,
    size: int,
    threads: int,
    device: torch.device,
    limit: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """The statistics of at most `limit` images (None: all), the same choice for every run.

    `progress` is told how many images of how many are done. Sums are exact, so the figures depend on no order. Raises
    UserError where an image cannot be read or decoded.
    """
    count = len(images) if limit is None else min(limit, len(images))
    chosen = np.sort(epoch_order(0, 0, len(images))[:count])
    requests = ((Crops.whole(chosen[first : first + _BATCH]), None) for first in range(0, count, _BATCH))
    total = torch.zeros(size, size, 3, dtype=torch.int64, device=device)
    products = torch.zeros(3, 3, dtype=torch.int64, device=device)
    done = 0
    for pixels, _ in decode(images, requests, size=size, crop=size, batch_size=_BATCH, threads=threads, device=device):
        total += pixels.sum(dim=0, dtype=torch.int64)
        # Whole numbers below 2^53: float64 adds them exactly.
        values = pixels.reshape(-1, 3).double()
        products += (values.T @ values).long()
        done += len(pixels)
        if progress is not None:
            progress(done, count)
    return from_sums(total.permute(2, 0, 1).cpu().numpy(), products.cpu().numpy(), count)


def from_sums(total: np.ndarray, products: np.ndarray, images: int) -> Statistics:
    """From int64 sums over images [3, size, size], and of products of channels over images and pixels [3, 3]."""
    count = images * total.shape[1] * total.shape[2]
    channels = [int(channel) for channel in total.sum(axis=(1, 2))]
    # In Python's whole numbers: the difference of two large sums loses nothing before the one division.
    covariance = [[(int(products[i, j]) * count - channels[i] * channels[j]) / count**2 for j in range(3)] for i in range(3)]
    eigenvalues, eigenvectors = np.linalg.eigh(np.array(covariance))
    eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
    largest = eigenvectors[np.abs(eigenvectors).argmax(axis=0), range(3)]
    return Statistics(
        mean_image=np.ascontiguousarray((total / images).astype(np.float32)),
        eigenvectors=np.ascontiguousarray(eigenvectors * np.sign(largest)),
        deviations=np.sqrt(np.maximum(eigenvalues, 0.0)),
        images=images,
    )
