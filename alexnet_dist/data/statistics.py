"""The mean image and the colours of the training images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from alexnet_dist.data.graph import decode_all
from alexnet_dist.data.images import Images
from alexnet_dist.data.plan import epoch_order

_BATCH = 32


@dataclass(frozen=True)
class Statistics:
    """Over `images` images: `mean_image` float32 [3, size, size] on the 0..255 scale; `eigenvectors` float64 [3, 3] in
    columns and `deviations` float64 [3], the square roots of the eigenvalues, of the covariance of RGB values."""

    mean_image: np.ndarray
    eigenvectors: np.ndarray
    deviations: np.ndarray
    images: int


def gather(
    images: Images, size: int, threads: int, device: torch.device, limit: int, progress: Callable[[int, int], None]
) -> Statistics:
    """Decode at most `limit` images (the first of a fixed order) and take their statistics, in exact integer sums."""
    chosen = np.sort(epoch_order(0, 0, len(images))[:limit])
    total = torch.zeros(3, size, size, dtype=torch.int64, device=device)
    products = torch.zeros(3, 3, dtype=torch.float64, device=device)
    done = 0
    for pixels in decode_all(images, chosen, _BATCH, size, threads, device):
        total += pixels.sum(dim=0, dtype=torch.int64)
        values = pixels.transpose(0, 1).flatten(1).double()
        products += values @ values.T
        done += len(pixels)
        progress(done, len(chosen))
    return from_sums(total.cpu().numpy(), products.cpu().numpy(), len(chosen))


def from_sums(total: np.ndarray, products: np.ndarray, images: int) -> Statistics:
    """From sums over images [3, size, size] and sums of products of channels over images and pixels [3, 3]."""
    pixels = images * total.shape[1] * total.shape[2]
    channels = total.sum(axis=(1, 2)) / pixels
    covariance = products / pixels - np.outer(channels, channels)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    # An eigenvector's sign is arbitrary: its largest component is made positive.
    largest = eigenvectors[np.abs(eigenvectors).argmax(axis=0), range(3)]
    return Statistics(
        mean_image=(total / images).astype(np.float32),
        eigenvectors=eigenvectors * np.sign(largest),
        deviations=np.sqrt(np.clip(eigenvalues, 0, None)),
        images=images,
    )
