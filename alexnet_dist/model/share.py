"""Which rows of every parameter a process holds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """The `index`-th of `count` equal parts of the net, in tower order.

    `Share(0, 1)` is the whole net, `Share(1, 2)` the second tower of two, `Share(0, 2)` of a net of four towers its first
    two. Every parameter is split over dimension 0 and nothing else.
    """

    index: int
    count: int

    def rows(self, total: int) -> slice:
        """The rows held, of a tensor with `total` rows.

        Raises:
            ValueError: `count` does not divide `total`.
        """
        if total % self.count:
            raise ValueError(f"{total} rows cannot be split into {self.count} equal shares")
        held = total // self.count
        return slice(self.index * held, (self.index + 1) * held)
