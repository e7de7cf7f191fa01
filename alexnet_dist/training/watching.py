"""Who watches which steps of a run: its activity, a trace for Perfetto, the times of one step's parts."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.settings import Settings
from alexnet_dist.tracking.record import TIMELINE, Record
from alexnet_dist.training.activity import Activity
from alexnet_dist.training.timeline import Timeline
from alexnet_dist.training.trace import Trace

# Of a run's steps the one whose times are taken, counted from where the run or its first start begins: by then all is warm.
_TIMED = 5


class Watchers:
    """The watchers of a run whose steps go on from `begun`. `activity` is there where it is to be recorded."""

    def __init__(self, settings: Settings, net: Net, mesh: Mesh, record: Record, begun: int) -> None:
        self.activity = Activity(net, mesh) if settings.tracking.activity else None
        profile = settings.trainer.profile
        self._trace = Trace(*profile, record.folder / "trace", net, mesh) if profile else None
        self._timed_step = None if mesh.from_first((record.folder / TIMELINE).exists()) else begun + _TIMED
        self._timeline = Timeline(mesh)
        self._net, self._record = net, record

    @contextmanager
    def step(self, step: int, logged: bool) -> Iterator[bool]:
        """Around a step and the batch that it waits for; whether somebody watches, for whom it has to run eagerly."""
        watched = False
        with ExitStack() as watching:
            if self.activity and logged:
                watching.enter_context(self.activity.watching())
                watched = True
            if step == self._timed_step:
                watching.enter_context(self._timeline.watching(self._net))
                watched = True
            if self._trace:
                watched |= watching.enter_context(self._trace.step(step))
            yield watched
        if step == self._timed_step:
            self._record.timeline(self._timeline.read())
