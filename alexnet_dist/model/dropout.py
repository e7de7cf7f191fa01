"""What a training step's dropout depends on."""

from dataclasses import dataclass

import torch

from alexnet_dist.kernels import dropout
from alexnet_dist.kernels.dropout import Masks


@dataclass(frozen=True)
class DropoutKey:
    """What the masks of one training step depend on.

    `first_row` is the position, in the step's whole batch, of the first image that this process sees. `step` may be an int64
    scalar on the device.
    """

    seed: int
    step: int | torch.Tensor
    first_row: int = 0

    def masks(self, layer: int, first_unit: int) -> Masks:
        """Those of a layer, which is the `layer`-th of the net, from its unit `first_unit` on."""
        return Masks(self.seed, self.step, layer, self.first_row, first_unit)


def keep_mask(key: DropoutKey, layer: int, rows: int, units: slice, p: float, device: torch.device) -> torch.Tensor:
    """Bool [rows, units]: True where a unit stays. `units` is the slice of the layer's units."""
    return dropout.keep_mask(key.masks(layer, units.start), rows, units.stop - units.start, p, device)
