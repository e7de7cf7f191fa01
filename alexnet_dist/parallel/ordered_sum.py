"""Sums over processes whose order of addition is fixed: a binary tree over the ranks of a group, whatever their number."""

from collections.abc import Generator

import torch
import torch.distributed as dist

# What a sum is between two of its rounds: the messages that it waits for.
Round = list[dist.Work]


class OrderedSum:
    """Tensors of all processes of a group become their sums: neighbours are added first, then pairs of neighbours, and so on.

    With a power of two of processes this is the tree that one process computes over all the parts, so that the bits are the same.
    With others the ranks beyond the largest power of two are added to the first ones before.

    A sum over 2^k processes takes 2 k rounds of messages. In round i a process keeps one half of what it still shares with the
    rank 2^i away, gives away the other, and adds what comes; then the halves come back the other way. So it sends 2 (n - 1) /
    n of its tensor. All sums move one round on with every `begin`, so that messages travel while the caller computes, and all
    processes issue them in the same order. Two numbers give the same sum either way round, so it does not matter who adds.

    `sent_bytes` counts what this process has sent.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._ranks = dist.get_process_group_ranks(group)
        self._rank, self._size = dist.get_rank(group), dist.get_world_size(group)
        self._under_way: list[tuple[Generator[Round, None, None], Round]] = []
        self.sent_bytes = 0

    def begin(self, tensor: torch.Tensor) -> None:
        """Begin to turn a tensor, dense in memory, into the sum in place; it must not be touched before `finish`."""
        self._move_on()
        if self._size > 1 and tensor.numel():
            flat = tensor.as_strided((tensor.numel(),), (1,))
            rounds = self._rounds(flat)
            self._under_way.append((rounds, next(rounds)))

    def finish(self) -> None:
        """Until all that was begun is summed."""
        while self._under_way:
            self._move_on()

    def drop(self) -> None:
        """Forget what was begun: all processes have broken off."""
        self._under_way = []

    def _move_on(self) -> None:
        """Take every sum under way, the oldest first, one round on."""
        still = []
        for rounds, works in self._under_way:
            for work in works:
                work.wait()
            following = next(rounds, None)
            if following is not None:
                still.append((rounds, following))
        self._under_way = still

    def _rounds(self, flat: torch.Tensor) -> Generator[Round, None, None]:
        whole = 1 << (self._size.bit_length() - 1)  # the largest power of two
        beyond = self._rank + whole if self._rank + whole < self._size else None
        if self._rank >= whole:
            yield self._exchange(self._rank - whole, flat, None)
            for _ in range(2 * (whole.bit_length() - 1)):
                yield []  # the rounds of the others: all processes are in the same one
            yield self._exchange(self._rank - whole, None, flat)
            return
        if beyond is not None:
            arriving = torch.empty_like(flat)
            yield self._exchange(beyond, None, arriving)
            flat += arriving
        elif whole < self._size:
            yield []
        first, last = 0, len(flat)
        halved = []
        distance = 1
        while distance < whole:
            middle = (first + last) // 2
            lower, upper = flat[first:middle], flat[middle:last]
            kept, given = (lower, upper) if self._rank & distance == 0 else (upper, lower)
            arriving = torch.empty_like(kept)
            yield self._exchange(self._rank ^ distance, given, arriving)
            kept += arriving
            halved.append((distance, kept, given))
            first, last = (first, middle) if self._rank & distance == 0 else (middle, last)
            distance *= 2
        for distance, kept, given in reversed(halved):
            yield self._exchange(self._rank ^ distance, kept, given)
        if beyond is not None:
            yield self._exchange(beyond, flat, None)

    def _exchange(self, peer: int, outgoing: torch.Tensor | None, arriving: torch.Tensor | None) -> Round:
        """Messages to and from a rank of the group, begun together; empty ones are none."""
        operations = []
        if arriving is not None and arriving.numel():
            operations.append(dist.P2POp(dist.irecv, arriving, self._ranks[peer], self._group))
        if outgoing is not None and outgoing.numel():
            operations.append(dist.P2POp(dist.isend, outgoing, self._ranks[peer], self._group))
            self.sent_bytes += outgoing.numel() * outgoing.element_size()
        return dist.batch_isend_irecv(operations) if operations else []


def tree_sum(parts: list[torch.Tensor]) -> torch.Tensor:
    """The sum of tensors in the order of the tree: neighbours first; a power of two of them gives OrderedSum's bits."""
    while len(parts) > 1:
        pairs = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + ([parts[-1]] if len(parts) % 2 else [])
    return parts[0]
