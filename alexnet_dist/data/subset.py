"""Some of a split's images as a split of their own."""

from collections.abc import Sequence

import numpy as np

from alexnet_dist.data.images import Images


class Subset:
    """Some of a split's images, by their indices, as a split of their own."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self._images = images
        self._indices = np.asarray(indices, np.int64)
        self.classes, self.class_ids = images.classes, images.class_ids
        self.labels = images.labels[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> np.ndarray:
        return self._images.read(int(self._indices[index]))

    def name(self, index: int) -> str:
        return self._images.name(int(self._indices[index]))
