"""Dropout as a pure function: which unit is dropped follows from (seed, step, layer, image, unit) alone.

No generator is kept and none is saved. A tower draws the masks of its own units before its maps cross, and the masks are
the same for one process or eight, on a CPU or a GPU, and after a restart.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch

WORD = 0xFFFFFFFF
Word = TypeVar("Word", int, torch.Tensor)


@dataclass(frozen=True)
class Masks:
    """Whose masks: of the images from `first_row` on in the step's whole batch, and of the layer's units from `first_unit` on.

    `step` may be an int64 scalar on the device.
    """

    seed: int
    step: int | torch.Tensor
    layer: int
    first_row: int
    first_unit: int


def keep_mask(masks: Masks, rows: int, units: int, p: float, device: torch.device) -> torch.Tensor:
    """Bool [rows, units]: True where a unit stays, with probability 1 - p."""
    stream = mix(mix(mix(masks.seed & WORD) ^ (masks.step & WORD)) ^ masks.layer)  # type: ignore[type-var]
    row = torch.arange(masks.first_row, masks.first_row + rows, device=device)
    unit = torch.arange(masks.first_unit, masks.first_unit + units, device=device)
    bits = mix(mix(row ^ stream)[:, None] ^ unit[None, :])
    return bits >= threshold(p)


def threshold(p: float) -> int:
    """A unit stays where its 32 bits are at least this."""
    return round(p * 2**32)


def mix(x: Word) -> Word:
    """Hash of 32-bit words held in int64: C. Wellons' lowbias32, https://github.com/skeeto/hash-prospector."""
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & WORD
    x = x ^ (x >> 15)
    x = (x * 0xD35A2D97) & WORD
    return x ^ (x >> 15)
