"""Where crops lie in images whose shorter side is scaled."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Places:
    """Where the crops of b images lie, (y, x) of each: [b, 2].

    sides int64: of the whole image, in pixels of the file. scaled int64: its sides once the shorter one is scaled. first int64:
    where the crop begins in the scaled image.
    """

    sides: np.ndarray
    scaled: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, sides: np.ndarray, offset: np.ndarray, size: int) -> "Places":
        """Of crops at `offset` (y, x) in the centre size x size of images whose shorter side is scaled to `size`."""
        scaled = sides * size // sides.min(axis=1, keepdims=True)
        surplus = scaled - size
        # Where torchvision's Resize and CenterCrop put the centre square.
        corner = (surplus + (surplus // 2 & 1)) // 2
        return cls(sides, scaled, corner + offset)

    @property
    def step(self) -> np.ndarray:
        """Pixels of the file for one of the scaled image, float64 [b, 2]."""
        return self.sides / self.scaled

    def is_scaled(self) -> np.ndarray:
        """Which images are scaled at all, bool [b]."""
        return (self.sides != self.scaled).any(axis=1)

    def read(self, crop: int) -> tuple[np.ndarray, np.ndarray]:
        """First and last + 1 pixels of the file, int64 [b, 2], that the crops are made of and the scaling's filter reaches."""
        start = self.first * self.step
        reach = (self.step + 1.0) * self.is_scaled()[:, None]
        first = np.floor(start - reach).clip(0)
        last = np.minimum(np.ceil(start + crop * self.step + reach), self.sides)
        return first.astype(np.int64), last.astype(np.int64)
