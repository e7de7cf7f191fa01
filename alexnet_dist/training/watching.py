"""Who watches which steps of a run: its activity, a trace for Perfetto, the times of one step's parts."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

import torch

from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.settings import Settings
from alexnet_dist.tracking.record import Record
from alexnet_dist.tracking.run_folder import TIMELINE
from alexnet_dist.training.activity import Activity
from alexnet_dist.training.first_steps import LOOK, signs_of_not_learning
from alexnet_dist.training.timeline import Timeline
from alexnet_dist.training.trace import Trace

# Of a run's steps the one whose times are taken, counted from where the run or its first start begins: by then all is warm.
_TIMED = 5


class Watchers:
    """The watchers of a run whose steps go on from `begun`, on images of so many classes. `active`: the last step's activity was
    watched."""

    def __init__(self, settings: Settings, net: Net, mesh: Mesh, record: Record, begun: int, classes: int) -> None:
        self._activity, self._recorded, self.active = Activity(net, mesh), settings.tracking.activity, False
        self._classes = classes
        profile = settings.trainer.profile
        self._trace = Trace(*profile, record.folder / "trace", net, mesh, record.display.say) if profile else None
        self._timed_step = None if mesh.from_first((record.folder / TIMELINE).exists()) else begun + _TIMED
        self._timeline = Timeline(mesh)
        self._net, self._record = net, record

    @contextmanager
    def step(self, step: int, logged: bool) -> Iterator[bool]:
        """Around a step and the batch that it waits for; whether somebody watches, for whom it has to run eagerly."""
        with ExitStack() as watching:
            self.active = watched = step == LOOK or (logged and self._recorded)
            if self.active:
                watching.enter_context(self._activity.watching())
            if step == self._timed_step:
                watching.enter_context(self._timeline.watching(self._net))
                watched = True
            if self._trace:
                watched |= watching.enter_context(self._trace.step(step))
            yield watched
        if step == self._timed_step:
            self._record.timeline(self._timeline.read())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Of a trace what there is of it is written."""
        if self._trace:
            self._trace.write()

    def tell(self, step: int, epoch: float, loss: torch.Tensor, logged: bool) -> None:
        """What was seen of a step that is done: its activity, and at step LOOK whether the net has begun to learn; every rank
        takes part."""
        if not self.active:
            return
        layers = self._activity.read()
        if step == LOOK:
            for sign in signs_of_not_learning(loss.item(), self._classes, layers):
                self._record.display.say(sign)
        if logged and self._recorded:
            self._record.write({"kind": "activity", "step": step, "epoch": epoch, "layers": layers})
