"""A step as one CUDA graph: the host launches it whole and waits for nothing."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

# Steps that run eagerly first: kernels are chosen, and NCCL connects the ranks.
_WARM_UP = 3


class Captured:
    """`function` of tensors, over buffers that stay where they are, replayed from a graph where that can be.

    Each call copies its inputs into the buffers: tensors whose shapes never change, and whole numbers, for which the function
    gets an int64 scalar. What comes back holds until the next call. `function` must do all else to tensors that stay, must not
    read one on the host, and must do the same in all calls of a `kind`: what differs from step to step is an input. The first
    calls of a kind run eagerly, then the work is captured, of which `prepare` is told; on a CPU, with `graph` false and after a
    capture that failed, of which `warn` is told, all calls do. What a failed capture has left undone, `function` begins anew.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        device: torch.device,
        graph: bool,
        prepare: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self._function = function
        self._device = device
        self._wanted = graph and device.type == "cuda"
        self._prepare, self._warn = prepare, warn
        self._kind: object = None
        self._calls = 0
        self._inputs: list[Tensor] = []
        self._outputs: Sequence[Tensor] = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        self.replayed = False  # the last call

    def __call__(self, *inputs: Tensor | int, kind: object, eagerly: bool = False) -> Sequence[Tensor]:
        """One step; `eagerly` for one that somebody watches."""
        if not self._inputs:
            self._inputs = [self._buffer(each) for each in inputs]
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given) if isinstance(given, Tensor) else held.fill_(given)
        if kind != self._kind:
            self._kind, self._calls, self._graph = kind, 0, None
        self._calls += 1
        if self._wanted and not eagerly and self._graph is None and self._calls > _WARM_UP:
            self._capture()
        self.replayed = self._graph is not None and not eagerly
        if self._graph is None or eagerly:
            return self._function(*self._inputs, kind=kind)
        self._graph.replay()
        return self._outputs

    def release(self) -> None:
        """Let go of the graph. NCCL ends no group as long as a graph holds messages of it."""
        if self._graph is not None:
            torch.cuda.synchronize(self._device)
        self._graph, self._outputs = None, ()

    def _buffer(self, given: Tensor | int) -> Tensor:
        if isinstance(given, Tensor):
            return torch.empty_like(given, device=self._device)
        return torch.empty((), dtype=torch.int64, device=self._device)

    def _capture(self) -> None:
        """Capturing does nothing but note what is to be done. Other threads, those of NCCL and DALI, may do what they like."""
        graph, pool, stream = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.cuda.current_stream(self._device)
        torch.cuda.synchronize(self._device)
        self._prepare()
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self._outputs = self._function(*self._inputs, kind=self._kind)
        except RuntimeError as error:
            self._wanted = False
            # After a call that is forbidden in a capture torch stays on the capture's stream and goes on taking memory for the
            # graph, and what is freed is kept until that ends.
            torch.cuda.set_stream(stream)
            with suppress(RuntimeError):  # it has ended
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            self._warn(f"warning: the step cannot be captured as a CUDA graph ({' '.join(str(error).split())}): it runs eagerly")
            return
        self._graph = graph
