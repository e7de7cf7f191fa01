"""Writing checkpoints beside the training: the tensors are copied at the step, and a thread of each rank writes them.

A checkpoint is complete or absent: it is written under another name, summed, and renamed when every rank has written its part.
What goes wrong meanwhile (a full disk, a folder that cannot be written) costs a warning, and the checkpoint before stays.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from alexnet_dist.errors import RunFailed, Stopped, reason_of
from alexnet_dist.files import whole_file
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.parallel.process import stream_for
from alexnet_dist.settings import CheckpointSettings
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.checkpoint import STATE, SUMS, NotWrittenError, list_checkpoints, sums_of
from alexnet_dist.training.state import SavedState, TrainingState
from alexnet_dist.training.weights import weights_hash


class Checkpoints:
    """The checkpoints of the run in `run_dir`, as this rank takes part in writing them.

    `describe` gives what a checkpoint of this moment says in state.json; every rank takes part. `saved_step` is the step of the
    last one begun, None before the first; `problem` says why the last that failed could not be; `pause` is entered while the
    training waits. Within it nothing of an earlier start is left half written, and the two pointers are right for `state`, from
    which the run goes on. At its end the last checkpoint is waited for, unless a peer is lost.
    """

    def __init__(
        self,
        run_dir: Path,
        settings: CheckpointSettings,
        mesh: Mesh,
        display: Display,
        state: TrainingState,
        describe: Callable[[], SavedState],
        saved_step: int | None = None,
        pause: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        # Not at the top: it takes a second to import, and what starts a training saves nothing.
        from alexnet_dist.training.tensors import check_finite, run_tensors, write_tensors

        self._run_tensors, self._check_finite, self._write_tensors = run_tensors, check_finite, write_tensors
        self._folder = run_dir / "checkpoints"
        self._settings = settings
        self._mesh = mesh
        self._display = display
        self._state, self._describe, self._pause = state, describe, pause
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[bool] | None = None
        self.saved_step = self._complete_step = saved_step
        self.problem = ""
        self._begun = time.monotonic()

    def time_due(self) -> bool:
        """Whether `checkpoint.minutes` have passed by this rank's clock."""
        minutes = self._settings.minutes
        return minutes is not None and time.monotonic() - self._begun >= 60 * minutes

    def at_boundary(self, last_step: int, time_is_up: bool, validated: bool) -> None:
        """Save where it is due: at the last step, every so many steps, when for some rank the time is up; and once more where a
        validation has changed what is remembered."""
        step, every = self._state.step, self._settings.every
        due = time_is_up or step == last_step or (every is not None and step % every == 0)
        if validated or (due and step not in (0, self.saved_step)):
            self.save()

    def save(self) -> None:
        """Begin to write a checkpoint, by all ranks, when the one before is written."""
        with self._pause():
            self.wait()
            state = self._state
            self.saved_step, self._begun = state.step, time.monotonic()
            tensors = self._run_tensors(state.net, state.preprocess, state.optimizer, copy=True)
            copied = torch.cuda.Event() if self._mesh.device.type == "cuda" else None
            if copied:
                copied.record()
            self._writing = self._thread.submit(self._write, self._describe(), tensors, copied)

    def finish(self) -> bool:
        """Wait until this step is saved, trying again where it could not be; whether it is."""
        self.wait()
        if self.saved_step != self._state.step:
            self.save()
            self.wait()
        return self.saved_step == self._state.step

    def wait(self) -> None:
        """Until the last checkpoint is written or given up; `saved_step` is then the step of the last complete one."""
        if self._writing is not None:
            self._mesh.peers.rest()
            if not self._writing.result():
                self.saved_step = self._complete_step
            self._complete_step, self._writing = self.saved_step, None

    def __enter__(self) -> "Checkpoints":
        if self._mesh.rank == 0:
            self._remove_unfinished()
            self._mend_pointers()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None or issubclass(kind, (Stopped, RunFailed)):
            self.wait()
        elif self._mesh.rank == 0:
            self._remove_unfinished()

    def _write(self, written: SavedState, tensors: dict[str, Any], copied: torch.cuda.Event | None) -> bool:
        """In the thread, on all ranks; whether the checkpoint is complete."""
        name = f"step-{written.step:08d}"
        partial = self._folder / f".{name}.partial"
        rank = self._mesh.rank
        try:
            self._together(lambda: _make_anew(partial) if rank == 0 else None)
            with _stream_of_its_own(self._mesh.device, copied):
                self._together(lambda: self._check_finite(tensors))
                weights = weights_hash(tensors["net"].values(), self._mesh, self._mesh.checkpoint_group)
                self._write_tensors(tensors, partial, self._mesh)
            sums = self._together(lambda: sums_of(partial, f"__{rank}_*"))
            self._together(lambda: self._publish(partial, name, replace(written, weights=weights), sums) if rank == 0 else None)
        except NotWrittenError as error:
            self.problem = reason_of(error)
            if rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
                self._display.say(
                    f"warning: no checkpoint of step {written.step} could be written to {self._folder} ({self.problem}); "
                    "the run goes on, and the checkpoint before stays"
                )
            return False
        return True

    def _together(self, work: Callable[[], Any]) -> list[Any]:
        """What `work` returns on each rank. Raises NotWrittenError on all when it meets that or an OSError on one."""
        result: Any = None
        problem = None
        try:
            result = work()
        except (OSError, NotWrittenError) as error:
            problem = reason_of(error)
        answers: list[Any] = [None] * self._mesh.layout.processes
        dist.all_gather_object(answers, (result, problem), group=self._mesh.checkpoint_group)
        if problems := [problem for _, problem in answers if problem]:
            raise NotWrittenError(problems[0])
        return [result for result, _ in answers]

    def _publish(self, partial: Path, name: str, written: SavedState, sums: list[str]) -> None:
        written.write(partial)
        (partial / SUMS).write_text("".join([*sums, sums_of(partial, ".metadata"), sums_of(partial, STATE)]))
        for written_here in (partial / STATE, partial / SUMS, partial):
            _to_disk(written_here)
        replaced = self._folder / f".{name}.replaced"
        if (self._folder / name).exists():
            os.rename(self._folder / name, replaced)  # put back by `choose_checkpoint` if a kill comes here
        os.rename(partial, self._folder / name)
        _to_disk(self._folder)
        shutil.rmtree(replaced, ignore_errors=True)
        try:
            self._point("latest", name)
            if written.best_step == written.step:
                self._point("best", name)
        except OSError as error:  # the checkpoint is complete; the next start mends what points to it
            self._display.say(f"warning: a pointer to {self._folder / name} cannot be written ({reason_of(error)})")
        self._prune()

    def _point(self, pointer: str, name: str) -> None:
        with whole_file(self._folder / pointer) as file:
            file.write(f"{name}\n".encode())

    def _mend_pointers(self) -> None:
        """A kill may have come between a checkpoint and its pointers, and what they name may have been set aside as damaged."""
        complete = [checkpoint.name for checkpoint in list_checkpoints(self._folder.parent)]
        newest = complete[0] if complete else None
        best = None if self._state.best_step is None else f"step-{self._state.best_step:08d}"
        for name, target in (("latest", newest), ("best", best)):
            pointer = self._folder / name
            named = pointer.read_text().strip() if pointer.is_file() else None
            try:
                if target in complete and named != target:
                    self._point(name, str(target))
                elif named is not None and named not in complete:
                    pointer.unlink()
            except OSError as error:
                self._display.say(f"warning: {pointer} cannot be written ({reason_of(error)})")

    def _prune(self) -> None:
        """Delete old checkpoints, under a hidden name: one that is half deleted is never taken for complete."""
        best = self._folder / "best"
        try:
            kept = {best.read_text().strip()} if best.is_file() else set()
            for old in list_checkpoints(self._folder.parent)[self._settings.keep :]:
                if old.name not in kept:
                    deleted = old.with_name(f".{old.name}.deleted")
                    os.rename(old, deleted)
                    shutil.rmtree(deleted)
        except OSError as error:
            self._display.say(f"warning: an old checkpoint in {self._folder} cannot be deleted ({reason_of(error)})")

    def _remove_unfinished(self) -> None:
        for left in self._folder.glob(".*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _to_disk(path: Path) -> None:
    """Hand a file, or a folder's list of names, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _stream_of_its_own(device: torch.device, copied: torch.cuda.Event | None) -> Iterator[None]:
    """On a GPU, which this thread enters first (a new thread's own is the first of the machine): behind the copies, and beside
    the training's stream."""
    if copied is None:
        yield
        return
    with torch.cuda.device(device):
        copied.synchronize()
        with torch.cuda.stream(stream_for("checkpoint", device)):
            yield
