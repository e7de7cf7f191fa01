"""Dropout as a pure function: which unit is dropped follows from (seed, step, layer, image, unit) alone.

No generator is kept and none is saved. A tower draws the masks of its own units before its maps cross, and the masks are
the same for one process or eight, on a CPU or a GPU, and after a restart.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch

WORD = 0xFFFFFFFF
Word = TypeVar("Word", int, torch.Tensor)


@dataclass(frozen=True)
class DropoutKey:
    """What masks depend on: of a training step, and of a layer of it.

    `first_row` is the position, in the step's whole batch, of the first image that this process sees. `step` may be an int64
    scalar on the device.
    """

    seed: int
    step: int | torch.Tensor
    first_row: int = 0
    layer: int = 0
    first_unit: int = 0

    def of(self, layer: int, first_unit: int) -> "DropoutKey":
        """That of the `layer`-th layer of the net, from its unit `first_unit` on."""
        return replace(self, layer=layer, first_unit=first_unit)


def keep_mask(key: DropoutKey, rows: int, units: int, p: float, device: torch.device) -> torch.Tensor:
    """Bool [rows, units]: True where a unit stays, with probability 1 - p."""
    stream = mix(mix(mix(key.seed & WORD) ^ (key.step & WORD)) ^ key.layer)  # type: ignore[type-var]
    row = torch.arange(key.first_row, key.first_row + rows, device=device)
    unit = torch.arange(key.first_unit, key.first_unit + units, device=device)
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
