"""A few steps of a run as a trace that Perfetto opens: every operation and kernel, under the names of a step's parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function

from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.training.timeline import named_parts


class Trace:
    """Traces `count` steps from step `first` on, and writes <folder>/rank<rank>.json.gz (https://ui.perfetto.dev opens it).
    `warn` is told of what could not be."""

    def __init__(self, first: int, count: int, folder: Path, net: Net, mesh: Mesh, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._first, self._last = first, first + count - 1
        self._path = folder / f"rank{mesh.rank}.json.gz"
        self._net, self._mesh = net, mesh
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (mesh.device.type == "cuda")
        self._profile = profile(activities=activities, acc_events=True)
        self._begun = self._written = False

    @contextmanager
    def step(self, step: int) -> Iterator[bool]:
        """Around one step of the run, its batch included; whether it is traced, and so must run eagerly for its parts' names."""
        if not self._first <= step <= self._last:
            yield False
            return
        if not self._begun:
            self._profile.start()
            self._begun = True
        open_parts: list[record_function] = []

        def begin(name: str) -> None:
            open_parts.append(record_function(name))
            open_parts[-1].__enter__()

        def end() -> None:
            open_parts.pop().__exit__(None, None, None)

        with record_function(f"step {step}"), named_parts(self._net, self._mesh, begin, end):
            yield True
        if step == self._last:
            self.write()

    def write(self) -> None:
        """Write what has been traced, once; where nothing has, or it cannot be written (a full disk), a line says so."""
        if not self._begun:
            self._warn("warning: no step of trainer.profile was taken in this start, so there is no trace")
        elif not self._written:
            self._written = True
            self._profile.stop()
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._profile.export_chrome_trace(str(self._path))
            except OSError as error:
                self._warn(f"warning: {self._path} cannot be written ({error.strerror}), so there is no trace")
