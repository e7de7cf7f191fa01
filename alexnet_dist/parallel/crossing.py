"""Maps cross between processes: one differentiable operation over point-to-point messages."""

import time

import torch
import torch.distributed as dist


class Crossing:
    """All processes of a group exchange their parts; each ends with the whole.

    Forward, a process sends its part [N, C, ...] to every other and gets [N, size * C, ...], the parts in the order of the
    group's ranks. Backward, it sends each process the gradient of that process's part, and adds what comes back to its own.
    All processes of the group must cross in the same order with parts of the same shape and dtype. NCCL groups carry
    CUDA tensors, gloo groups CPU tensors. The group should serve crossings alone, so that no collective delays them.

    The crossing counts what it sends and how long the computation waits for it; `read` returns both.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.size = dist.get_world_size(group)
        self.index = dist.get_rank(group)
        self._ranks = dist.get_process_group_ranks(group)
        self._bytes = 0
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        if self.size == 1:
            return part
        return _Cross.apply(part, self)

    def read(self) -> tuple[int, float]:
        """Bytes this process sent, and seconds its computation stood waiting, since the last call. Synchronises CUDA."""
        for start, end in self._events:
            end.synchronize()
            self._seconds += start.elapsed_time(end) / 1000
        result = self._bytes, self._seconds
        self._bytes, self._seconds, self._events = 0, 0.0, []
        return result

    def restore(self, counted: tuple[int, float]) -> None:
        """Set the counts to what an earlier `read` returned: what has crossed since is not counted."""
        self.read()
        self._bytes, self._seconds = counted

    def exchange(self, outgoing: list[torch.Tensor]) -> list[torch.Tensor]:
        """Send `outgoing[i]` to rank i of the group and return what each sent here; this rank's own entry stays as it is.

        One symmetric batch of messages: asymmetric ones can hang NCCL.
        """
        incoming = [torch.empty_like(tensor) if i != self.index else tensor for i, tensor in enumerate(outgoing)]
        operations = []
        for i, (send, receive) in enumerate(zip(outgoing, incoming, strict=True)):
            if i != self.index:
                operations.append(dist.P2POp(dist.isend, send, self._ranks[i], self.group))
                operations.append(dist.P2POp(dist.irecv, receive, self._ranks[i], self.group))
                self._bytes += send.numel() * send.element_size()
        on_cuda = outgoing[self.index].is_cuda
        if on_cuda:
            started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            started.record()
        begin = time.perf_counter()
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        if on_cuda:
            ended.record()
            self._events.append((started, ended))
        else:
            self._seconds += time.perf_counter() - begin
        return incoming


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part: torch.Tensor, crossing: Crossing):  # type: ignore[no-untyped-def]
        ctx.crossing = crossing
        ctx.order = _dense_order(part)
        part = part.permute(ctx.order).contiguous()
        whole = torch.cat(crossing.exchange([part] * crossing.size), dim=ctx.order.index(1))
        return whole.permute(_inverse(ctx.order))

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):  # type: ignore[no-untyped-def]
        crossing, order = ctx.crossing, ctx.order
        parts = gradient.permute(order).chunk(crossing.size, dim=order.index(1))
        received = crossing.exchange([part.contiguous() for part in parts])
        # Added in the group's order on every process, so that a sum does not depend on who computes it.
        total = received[0] + received[1]
        for part in received[2:]:
            total += part
        return total.permute(_inverse(order)), None


def _dense_order(maps: torch.Tensor) -> tuple[int, ...]:
    """The order of dimensions in which a tensor travels: channels last where it lies so in memory, else as it is."""
    if maps.dim() == 4 and maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous():
        return (0, 2, 3, 1)
    return tuple(range(maps.dim()))


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(i) for i in range(len(order)))
