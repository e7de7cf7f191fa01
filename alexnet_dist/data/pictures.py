"""Image files that a person names: found by file, folder or pattern, and brought to the pixels that a net is shown."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alexnet_dist.data.listing import list_images
from alexnet_dist.data.odd_files import UnusableImageError, crop_square, decode
from alexnet_dist.errors import UserError


def find_pictures(named: Sequence[str]) -> list[Path]:
    """The files that names of files, folders and patterns mean, in their order; of a folder its image files (data/listing.py).

    `**` in a pattern goes through subfolders. Raises UserError where a name means no file.
    """
    found: list[Path] = []
    for name in named:
        path = Path(name)
        if path.is_dir():
            own = [path / os.fsdecode(file) for file in list_images(path).tolist()]
        elif path.exists():
            own = [path]
        else:
            own = [Path(match) for match in sorted(glob.glob(name, recursive=True)) if Path(match).is_file()]
        if not own:
            what = "holds no image files" if path.is_dir() else "is no file, and no pattern that any file fits"
            raise UserError(f"images: {name} {what}")
        found += own
    return found


def read_picture(path: Path, size: int) -> torch.Tensor:
    """The centre square of an image whose shorter side is scaled to `size`, uint8 [3, size, size], as the feeds have it.

    Any format that Pillow opens is taken; what becomes of orientation, inks, palettes, 16 bits and transparency is said in
    data/odd_files.py. The filter is Pillow's triangle.

    Raises UnusableImageError: the file cannot be read or holds no image that can be taken; the message is the reason.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnusableImageError(f"cannot be read ({error.strerror})") from None
    image, _ = decode(data, formats=None)
    square = crop_square(image, size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
