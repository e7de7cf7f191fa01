"""Images and folders of them that the tests of the data make."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_dist.data.images import sum_of


def photo(seed: int, width: int, height: int) -> Image.Image:
    """A smooth RGB picture with some grain, another for each seed."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = random.integers(-10, 11, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_folder(root: Path, counts: dict[str, Sequence[int]], sides: tuple[int, int] = (40, 90)) -> Path:
    """root/<split>/class<k>/<n>.JPEG, counts[split][k] of them, of random sides."""
    random = np.random.default_rng(7)
    for split, of_classes in counts.items():
        for label, count in enumerate(of_classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                width, height = (int(side) for side in random.integers(*sides, size=2))
                (folder / f"{number:04d}.JPEG").write_bytes(encoded(photo(int(random.integers(2**31)), width, height)))
    return root


class InMemory:
    """Images (data/images.py) from a list of encoded files."""

    def __init__(self, files: Sequence[bytes], labels: Sequence[int] | None = None, side: int | None = None) -> None:
        self.side = side
        self._files = [np.frombuffer(file, np.uint8) for file in files]
        self.labels = np.zeros(len(files), np.int64) if labels is None else np.asarray(labels, np.int64)
        self.classes = self.class_ids = tuple(f"class{label}" for label in range(int(self.labels.max()) + 1))

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> np.ndarray:
        return self._files[index]

    def name(self, index: int) -> str:
        return f"image-{index}"

    def fingerprint(self) -> str:
        return sum_of(*map(bytes, self._files), self.labels)
