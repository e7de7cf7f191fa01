"""What a run is between two steps."""

from dataclasses import dataclass
from typing import Any

import torch

from alexnet_dist.data.views import Preprocess
from alexnet_dist.model.net import Net
from alexnet_dist.training.update import Schedule


@dataclass
class TrainingState:
    """The tensors of a run and where it stands: `step` steps done, `images` of them into epoch `epoch`, the last
    validation after epoch `validated`, `skipped` updates left out.

    Nothing else is needed to go on: the order of the images, their crops and the dropout masks are functions of the seed
    and of these numbers.
    """

    net: Net
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    preprocess: Preprocess
    step: int = 0
    epoch: int = 0
    images: int = 0
    validated: int = 0
    skipped: int = 0
    best_error: float = float("inf")

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
        best = top1_error < self.best_error
        self.best_error = min(self.best_error, top1_error)
        return best

    def numbers(self) -> dict[str, Any]:
        """All but the tensors, as it goes into a checkpoint's state.json."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "images": self.images,
            "validated": self.validated,
            "skipped": self.skipped,
            "best_error": self.best_error,
            "schedule": self.schedule.state(),
        }

    def load_numbers(self, numbers: dict[str, Any]) -> None:
        """Go on from `numbers`."""
        self.step, self.epoch, self.images = numbers["step"], numbers["epoch"], numbers["images"]
        self.validated, self.skipped = numbers["validated"], numbers["skipped"]
        self.best_error = numbers["best_error"]
        self.schedule.load_state(numbers["schedule"])
