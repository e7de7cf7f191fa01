"""What a run is between two steps, and what a checkpoint says of it beside its tensors."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.model.net import Net
from alexnet_dist.training.meter import ErrorCount
from alexnet_dist.training.update import MomentumSGD, Schedule

FORMAT = 4
STATE = "state.json"


@dataclass(kw_only=True)
class Numbers:
    """Where a run stands: `step` steps done, `images` of them into epoch `epoch`, the last validation after epoch `validated`,
    the best at step `best_step`, `skipped` updates left out, the last line's `training_error`, the samples `left_out` because
    their images are bad. With the defaults it is a run before its first step."""

    step: int = 0
    epoch: int = 0
    images: int = 0
    validated: int = 0
    skipped: int = 0
    training_error: float = float("inf")
    best_error: float = float("inf")
    best_step: int | None = None
    left_out: Sequence[int] = ()


@dataclass
class SavedState(Numbers):
    """state.json: what was trained, on what, and how far.

    `shapes` are those of the whole net's parameters, `config` is the composed configuration, `classes` and `class_ids` name
    the net's outputs by label. `training_images` is None where other images than this program's have been trained on
    (imported weights), `fingerprint` the sum of their names. `metrics_bytes` is how much of metrics.jsonl was written by
    then. `weights` is the short hash of the parameters (training/weights.py).
    """

    shapes: dict[str, list[int]]
    config: dict[str, Any]
    classes: list[str]
    class_ids: list[str]
    training_images: int | None
    fingerprint: str | None = None
    resumed_from: str | None = None
    epochs_done: float = 0.0
    errors_since_line: tuple[int, int] = (0, 0)
    schedule: dict[str, Any] = field(default_factory=dict)
    metrics_bytes: int = 0
    weights: str | None = None
    wandb_id: str | None = None
    format: int = FORMAT

    def write(self, checkpoint: Path) -> None:
        """Raises OSError."""
        (checkpoint / STATE).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, checkpoint: Path) -> "SavedState":
        """Raises UserError where the folder is no checkpoint that this program can read."""
        try:
            said = json.loads((checkpoint / STATE).read_text())
            if said.get("format") != FORMAT:
                raise UserError(f"{checkpoint} has checkpoint format {said.get('format')}, this program reads format {FORMAT}")
            wrong, images = said.pop("errors_since_line")
            left_out = tuple(said.pop("left_out", ()))  # which version 0.1 did not have
            return cls(**said, errors_since_line=(wrong, images), left_out=left_out)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{checkpoint} holds no readable checkpoint ({error}): name a step-... folder or a run folder"
            ) from None


@dataclass
class TrainingState(Numbers):
    """The tensors of a run and where it stands.

    Nothing else is needed to go on: the order of the images, their crops and the dropout masks are functions of the seed
    and of these numbers.
    """

    net: Net
    optimizer: MomentumSGD
    schedule: Schedule
    preprocess: Preprocess
    errors: ErrorCount
    images_per_epoch: int

    def advance(self, images: int) -> None:
        """A step over so many images is done; an epoch ends when too few for another batch are left of it."""
        self.step += 1
        self.images += images
        if self.images + images > self.images_per_epoch:
            self.epoch, self.images = self.epoch + 1, 0

    def stand_at_a_batch(self, size: int) -> None:
        """Go back to where a batch of `size` images begins: in an epoch that was begun with others it may be between two."""
        self.images -= self.images % size
        if self.images + size > self.images_per_epoch:
            self.epoch, self.images = self.epoch + 1, 0

    @property
    def epochs_done(self) -> float:
        """Epochs done, with the fraction of the one under way."""
        return self.epoch + self.images / self.images_per_epoch

    def validation_due(self, every: int) -> bool:
        """Whether an epoch that is a multiple of `every` has just ended and was not validated yet."""
        return self.images == 0 and self.epoch > self.validated and self.epoch % every == 0

    def note_validation(self, top1_error: float) -> None:
        """Tell the schedule of a validation, and whether it is the best so far."""
        self.validated = self.epoch
        self.schedule.after_validation(top1_error)
        if top1_error < self.best_error:
            self.best_error, self.best_step = top1_error, self.step

    def saved(self, origin: SavedState, record: Callable[[], dict[str, Any]] = dict) -> SavedState:
        """`origin` with the numbers of this moment, and the record's; every rank takes part."""
        numbers = {number.name: getattr(self, number.name) for number in fields(Numbers)}
        numbers |= {"epochs_done": self.epochs_done, "errors_since_line": self.errors.total(), "schedule": self.schedule.state()}
        return replace(origin, **numbers, **record())

    def go_on_from(self, saved: SavedState, other_images: bool) -> None:
        """Take over its numbers; with other images not those that tell of its own: the best error and the images left out."""
        if other_images:
            plateau = {**saved.schedule, "best_error": float("inf"), "since_best": 0}
            saved = replace(saved, best_error=float("inf"), best_step=None, left_out=(), schedule=plateau)
        for number in fields(Numbers):
            setattr(self, number.name, getattr(saved, number.name))
        self.errors.restore(saved.errors_since_line)
        self.schedule.load_state(saved.schedule)
        if saved.step:  # a validation before the next step tells what the last one updated
            began = self._last_step_began(saved.config["trainer"]["batch_size"])
            self.optimizer.set_rates(self.schedule.learning_rate(began), self.schedule.phase(began))

    def _last_step_began(self, batch_size: int) -> float:
        """The epochs that were done, with their fraction, when the last step began."""
        images = self.images or self.images_per_epoch // batch_size * batch_size
        return self.epoch - (self.images == 0) + (images - batch_size) / self.images_per_epoch
