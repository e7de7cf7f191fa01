"""What a step leaves on the device, read by the host when the next step is under way."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

Then = Callable[[Sequence[torch.Tensor]], None]


class Later:
    """Values that are read late, so that a GPU never stands idle because the host wants to know. In the order of `read`."""

    def __init__(self) -> None:
        self._asked: deque[tuple[list[torch.Tensor], Any, Then]] = deque()

    def read(self, values: Sequence[torch.Tensor], then: Then) -> None:
        """Copy the values as they are now to the host, and call `then` with the copies when `settle` is next called."""
        on_gpu = values[0].is_cuda
        copies = [torch.empty(value.shape, dtype=value.dtype, pin_memory=on_gpu) for value in values]
        for copy, value in zip(copies, values, strict=True):
            copy.copy_(value, non_blocking=True)
        copied = torch.cuda.Event() if on_gpu else None
        if copied:
            copied.record()
        self._asked.append((copies, copied, then))

    def settle(self) -> None:
        """Do what is to be done with all that was read. What is raised there leaves the rest for another time."""
        while self._asked:
            copies, copied, then = self._asked.popleft()
            if copied:
                copied.synchronize()
            then(copies)
