"""Parameters in the dtype of the products, so that none is cast in a forward pass."""

import torch
from torch import nn


class Copy:
    """A parameter's copy of another dtype, lying in memory as the parameter does.

    Who writes both says so (`written`). If anything else has changed the parameter, a checkpoint say, the copy is made anew
    when it is next read.
    """

    def __init__(self, parameter: nn.Parameter, dtype: torch.dtype) -> None:
        self.tensor = torch.empty_like(parameter, dtype=dtype, requires_grad=False)
        self._parameter = parameter
        self._version = -1

    def read(self) -> torch.Tensor:
        if self._version != self._parameter._version:
            self.tensor.copy_(self._parameter.detach())
            self.written()
        return self.tensor

    def written(self) -> None:
        """The parameter and the copy have just been written together."""
        self._version = self._parameter._version
