"""What a run is between two steps."""

from dataclasses import dataclass
from typing import Any

from alexnet_dist.data.views import Preprocess
from alexnet_dist.model.net import Net
from alexnet_dist.training.error_count import ErrorCount
from alexnet_dist.training.update import MomentumSGD, Schedule


@dataclass
class TrainingState:
    """The tensors of a run and where it stands: `step` steps done, `images` of them into epoch `epoch`, the last
    validation after epoch `validated`, the best at step `best_step`, `skipped` updates left out, the last line's
    `training_error`.

    Nothing else is needed to go on: the order of the images, their crops and the dropout masks are functions of the seed
    and of these numbers.
    """

    net: Net
    optimizer: MomentumSGD
    schedule: Schedule
    preprocess: Preprocess
    errors: ErrorCount
    step: int = 0
    epoch: int = 0
    images: int = 0
    validated: int = 0
    skipped: int = 0
    training_error: float = float("inf")
    best_error: float = float("inf")
    best_step: int | None = None

    def advance(self, images: int, images_per_epoch: int) -> None:
        """A step over so many images is done; an epoch ends when too few for another batch are left of it."""
        self.step += 1
        self.images += images
        if self.images + images > images_per_epoch:
            self.epoch, self.images = self.epoch + 1, 0

    def epochs_done(self, images_per_epoch: int) -> float:
        """Epochs done, with the fraction of the one under way."""
        return self.epoch + self.images / images_per_epoch

    def validation_due(self, every: int) -> bool:
        """Whether an epoch that is a multiple of `every` has just ended and was not validated yet."""
        return self.images == 0 and self.epoch > self.validated and self.epoch % every == 0

    def note_validation(self, top1_error: float) -> bool:
        """Tell the schedule of a validation; True when it is the best so far."""
        self.validated = self.epoch
        self.schedule.after_validation(top1_error)
        if top1_error >= self.best_error:
            return False
        self.best_error, self.best_step = top1_error, self.step
        return True

    def numbers(self) -> dict[str, Any]:
        """All but the tensors, as it goes into a checkpoint's state.json; every rank takes part."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "images": self.images,
            "validated": self.validated,
            "skipped": self.skipped,
            "training_error": self.training_error,
            "errors_since_line": self.errors.total(),
            "best_error": self.best_error,
            "best_step": self.best_step,
            "schedule": self.schedule.state(),
        }

    def load_numbers(self, numbers: dict[str, Any]) -> None:
        """Go on from `numbers`."""
        self.step, self.epoch, self.images = numbers["step"], numbers["epoch"], numbers["images"]
        self.validated, self.skipped = numbers["validated"], numbers["skipped"]
        self.training_error = numbers["training_error"]
        self.errors.restore(tuple(numbers["errors_since_line"]))
        self.best_error, self.best_step = numbers["best_error"], numbers["best_step"]
        self.schedule.load_state(numbers["schedule"])
