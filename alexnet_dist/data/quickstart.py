"""The quick start's images: eight classes of drawn JPEG files that take colour, shape and orientation to tell apart."""

import colorsys
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COLOURS = {"red": 0.0, "blue": 0.62}  # hues
SHAPES = ("ellipse", "stripes")
ORIENTATIONS = ("flat", "upright")
CLASSES = len(COLOURS) * len(SHAPES) * len(ORIENTATIONS)
TRAIN_IMAGES, VAL_IMAGES = 200, 50  # of each class
_SEED = 2012


def make(folder: Path, progress: Callable[[int, int], None]) -> None:
    """Write train/ and val/ of class folders under `folder`; a set that is there already is left as it is.

    The set appears whole, by a rename, so that two processes may make it at once and a killed one leaves no half.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _draw(partial, progress)
        partial.chmod(0o755)
        os.rename(partial, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _draw(folder: Path, progress: Callable[[int, int], None]) -> None:
    random = np.random.default_rng(_SEED)
    classes = list(itertools.product(COLOURS, SHAPES, ORIENTATIONS))
    total, done = len(classes) * (TRAIN_IMAGES + VAL_IMAGES), 0
    for split, count in (("train", TRAIN_IMAGES), ("val", VAL_IMAGES)):
        for colour, shape, orientation in classes:
            place = folder / split / f"{colour}-{shape}-{orientation}"
            place.mkdir(parents=True)
            for number in range(count):
                draw_image(random, COLOURS[colour], shape, orientation).save(place / f"{number:04d}.jpg", quality=90)
                done += 1
            progress(done, total)


def draw_image(random: np.random.Generator, hue: float, shape: str, orientation: str) -> Image.Image:
    """One RGB image of 72 to 120 pixels a side: an object of some size somewhere on a noisy ground of another colour."""
    width, height = (int(side) for side in random.integers(72, 121, size=2))
    image = Image.fromarray(_ground(random, width, height))
    canvas = ImageDraw.Draw(image)
    short = min(width, height)
    length, breadth = random.uniform(0.5, 0.75) * short, random.uniform(0.2, 0.32) * short
    across, down = (length, breadth) if orientation == "flat" else (breadth, length)
    # The centre square is what training sees: the object lies within it.
    x = width / 2 + random.uniform(-1, 1) * max(0.0, 0.46 * short - across / 2)
    y = height / 2 + random.uniform(-1, 1) * max(0.0, 0.46 * short - down / 2)
    if shape == "ellipse":
        canvas.ellipse((x - across / 2, y - down / 2, x + across / 2, y + down / 2), fill=_colour(random, hue))
    else:
        side, stripes = 0.85 * length, int(random.integers(3, 6))
        x = width / 2 + random.uniform(-1, 1) * max(0.0, 0.46 * short - side / 2)
        y = height / 2 + random.uniform(-1, 1) * max(0.0, 0.46 * short - side / 2)
        for i in range(stripes):
            start, end = side * i / stripes, side * (i + 0.5) / stripes
            box = (0.0, start, side, end) if orientation == "flat" else (start, 0.0, end, side)
            left, top = x - side / 2, y - side / 2
            corners = (left + box[0], top + box[1], left + box[2], top + box[3])
            canvas.rectangle(corners, fill=_colour(random, hue))
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.0)))


def _ground(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A ground of any dull colour, lighter to one side, with noise: uint8 [height, width, 3]."""
    base = random.uniform(60, 190) + random.uniform(-25, 25, size=3)
    slope_x, slope_y = random.uniform(-40, 40, size=2)
    ramp = np.linspace(-0.5, 0.5, width)[None, :, None] * slope_x + np.linspace(-0.5, 0.5, height)[:, None, None] * slope_y
    noise = random.normal(0, random.uniform(4, 16), size=(height, width, 3))
    return np.clip(base + ramp + noise, 0, 255).astype(np.uint8)


def _colour(random: np.random.Generator, hue: float) -> tuple[int, int, int]:
    rgb = colorsys.hsv_to_rgb((hue + random.normal(0, 0.025)) % 1, random.uniform(0.6, 1), random.uniform(0.5, 1))
    red, green, blue = (int(255 * value) for value in rgb)
    return red, green, blue
