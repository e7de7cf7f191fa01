"""Dropout as a pure function: which unit is dropped follows from (seed, step, layer, image, unit) alone.

No generator is kept and none is saved. A tower draws the masks of its own units before its maps cross, and the masks are
the same for one process or eight, on a CPU or a GPU, and after a restart.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch

_WORD = 0xFFFFFFFF
Word = TypeVar("Word", int, torch.Tensor)


@dataclass(frozen=True)
class DropoutKey:
    """What the masks of one training step depend on.

    `first_row` is the position, in the step's whole batch, of the first image that this process sees.
    """

    seed: int
    step: int
    first_row: int = 0


def keep_mask(key: DropoutKey, layer: int, rows: int, units: slice, p: float, device: torch.device) -> torch.Tensor:
    """Bool [rows, units]: True where a unit stays, with probability 1 - p.

    `layer` is the layer's place in the net, `units` the slice of the layer's units that this process holds.
    """
    stream = _mix(_mix(_mix(key.seed & _WORD) ^ (key.step & _WORD)) ^ layer)
    row = torch.arange(key.first_row, key.first_row + rows, device=device)
    unit = torch.arange(units.start, units.stop, device=device)
    bits = _mix(_mix(row ^ stream)[:, None] ^ unit[None, :])
    return bits >= round(p * 2**32)


def _mix(x: Word) -> Word:
    """Hash of 32-bit words held in int64: C. Wellons' lowbias32, https://github.com/skeeto/hash-prospector."""
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _WORD
    x = x ^ (x >> 15)
    x = (x * 0xD35A2D97) & _WORD
    return x ^ (x >> 15)
