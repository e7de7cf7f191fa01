"""Maps cross between processes by point-to-point messages, which travel while the caller computes."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

import torch
import torch.distributed as dist


class Crossing:
    """All processes of a group exchange parts: what one begins, all must begin, in the same order and with the same shapes.

    NCCL groups carry CUDA tensors, gloo groups CPU tensors. The group should serve crossings alone, so that no collective
    delays them. Tensors travel in the dtype `wire`, or as they are (None), and arrive in their own. Without `overlap`, `begin`
    waits for the messages itself: to measure what it is good for.

    The crossing counts what it sends and how long the computation waits for it; `read` returns both. Of what is captured in a
    CUDA graph it counts what `replayed` tells of. `watch`, while somebody
    watches, is told "send" when messages begin, "wait" and "arrived" around each time that the computation waits for them.
    """

    def __init__(self, group: dist.ProcessGroup, wire: torch.dtype | None = None, overlap: bool = True) -> None:
        self.group = group
        self.size = dist.get_world_size(group)
        self.index = dist.get_rank(group)
        self.wire = wire
        self.overlap = overlap
        self._ranks = dist.get_process_group_ranks(group)
        self._bytes = 0
        self._seconds = 0.0
        self._events: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._captured_bytes, self._replays = 0, 0
        self._replay_seconds: float | None = None
        self._captured_events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.watch: Callable[[str], None] = lambda what: None

    def begin(self, outgoing: list[torch.Tensor]) -> "Arrival":
        """Begin to send outgoing[i] to rank i of the group. `wait` of what is returned gives what each rank sent here.

        One symmetric batch of messages: asymmetric ones can hang NCCL. This rank's own entry stays as it is.
        """
        if self.size > 1:
            self.watch("send")
        own = outgoing[self.index]
        arrival = Arrival(self, list(outgoing), _dense_order(own))
        operations = []
        for i, tensor in enumerate(outgoing):
            if i != self.index:
                sent = tensor.to(self.wire or tensor.dtype).permute(arrival.order).contiguous()
                received = torch.empty_like(sent)
                arrival.received[i] = received
                arrival.sent.append(sent)
                # gloo tells a sender when it may begin, and would tell it behind what this process sends.
                operations.append(dist.P2POp(dist.irecv, received, self._ranks[i], self.group))
                operations.append(dist.P2POp(dist.isend, sent, self._ranks[i], self.group))
                if sent.is_cuda and torch.cuda.is_current_stream_capturing():
                    self._captured_bytes += sent.nbytes
                else:
                    self._bytes += sent.nbytes
        arrival.works = dist.batch_isend_irecv(operations) if operations else []
        if not self.overlap:
            arrival.finish()
        return arrival

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        """This process's part [N, C, ...] -> [N, size * C, ...], the parts in the order of the group's ranks; differentiable.

        Backward, each process gets the sum of the gradients of its part.
        """
        return part if self.size == 1 else _Cross.apply(part, self)

    def read(self, wait: bool = True) -> tuple[int, float]:
        """Bytes this process sent, and seconds its computation stood waiting, since the last call: with `wait` until now, else as
        far as a GPU has told. Of replays one is measured for all, the last that could be."""
        if self._events and wait:
            self._events[-1][1].synchronize()
        self._add_up()
        if self._replays:
            replays = torch.cuda.current_stream()  # whose events the next replay records anew
            if wait or self._replay_seconds is None or replays.query():
                replays.synchronize()
                self._replay_seconds = sum(start.elapsed_time(end) for start, end in self._captured_events) / 1000
            self._seconds += self._replays * self._replay_seconds
            self._bytes += self._replays * self._captured_bytes
        result = self._bytes, self._seconds
        self._bytes, self._seconds, self._replays = 0, 0.0, 0
        return result

    def replayed(self) -> None:
        """The graph in which crossings were captured has been replayed."""
        if self._captured_events:
            self._replays += 1

    def forget_captured(self) -> None:
        """Crossings are captured anew: those of the graph before are replayed no more."""
        self.restore(self.read())
        self._captured_bytes, self._replay_seconds, self._captured_events = 0, None, []

    def restore(self, counted: tuple[int, float]) -> None:
        """Set the counts to what an earlier `read` returned: what has crossed since is not counted."""
        self.read()
        self._bytes, self._seconds = counted

    def wait_for(self, works: list[dist.Work], on_cuda: bool) -> None:
        """Wait, on the current stream where the messages are a GPU's, and count the time."""
        self.watch("wait")
        if on_cuda:
            captured = torch.cuda.is_current_stream_capturing()
            if not captured:  # of a stream that is being captured nothing may be asked
                self._add_up()
            started, ended = (torch.cuda.Event(enable_timing=True, external=captured) for _ in range(2))
            started.record()
        begin = time.perf_counter()
        for work in works:
            work.wait()
        if on_cuda:
            ended.record()
            (self._captured_events if captured else self._events).append((started, ended))
        else:
            self._seconds += time.perf_counter() - begin
        self.watch("arrived")

    def _add_up(self) -> None:
        """Count the waiting that is over: nobody may read it for a whole validation, and no event is to be kept so long."""
        while self._events and self._events[0][1].query():
            start, end = self._events.popleft()
            self._seconds += start.elapsed_time(end) / 1000


@dataclass
class Arrival:
    """Messages under way. What is sent is held until they have arrived."""

    crossing: Crossing
    outgoing: list[torch.Tensor]
    order: tuple[int, ...]
    received: dict[int, torch.Tensor] = field(default_factory=dict)
    sent: list[torch.Tensor] = field(default_factory=list)
    works: list[dist.Work] = field(default_factory=list)

    def finish(self) -> None:
        """Wait until the messages have arrived."""
        if self.works:
            self.crossing.wait_for(self.works, self.sent[0].is_cuda)
        self.works, self.sent = [], []

    def wait(self) -> list[torch.Tensor]:
        """What each rank of the group sent here, in their order; this rank's own entry is what `begin` was given."""
        self.finish()
        arrived = list(self.outgoing)
        for i, tensor in self.received.items():
            arrived[i] = tensor.permute([self.order.index(i) for i in range(len(self.order))]).to(self.outgoing[i].dtype)
        return arrived


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part: torch.Tensor, crossing: Crossing):  # type: ignore[no-untyped-def]
        ctx.crossing = crossing
        return torch.cat(crossing.begin([part] * crossing.size).wait(), dim=1)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):  # type: ignore[no-untyped-def]
        crossing = ctx.crossing
        received = crossing.begin(list(gradient.chunk(crossing.size, dim=1))).wait()
        # Added in the group's order on every process, so that a sum does not depend on who computes it.
        return reduce(torch.add, received), None


def _dense_order(maps: torch.Tensor) -> tuple[int, ...]:
    """The order of dimensions in which a tensor travels: channels last where it lies so in memory, else as it is."""
    if maps.dim() == 4 and maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous():
        return (0, 2, 3, 1)
    return tuple(range(maps.dim()))
