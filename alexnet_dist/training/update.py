"""The update rule of the paper, and the learning rate's way down."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alexnet_dist.settings import OptimizerSettings, ScheduleSettings


def build_optimizer(net: nn.Module, settings: OptimizerSettings) -> torch.optim.SGD:
    """SGD whose steps are the paper's (section 5): v <- momentum v - lr (gradient + decay w), w <- w + v.

    Weights and biases are groups of their own; each carries its learning rate's `multiplier`.
    """
    weights = [parameter for name, parameter in net.named_parameters() if not name.endswith("bias")]
    biases = [parameter for name, parameter in net.named_parameters() if name.endswith("bias")]
    bias_decay = settings.weight_decay if settings.bias_weight_decay else 0.0
    groups: list[dict[str, Any]] = [
        {"params": weights, "multiplier": 1.0, "weight_decay": settings.weight_decay},
        {"params": biases, "multiplier": settings.bias_lr_multiplier, "weight_decay": bias_decay},
    ]
    for group in groups:
        group["lr"] = settings.lr * group["multiplier"]
    # The CPU's fused kernel rounds the last few elements of a tensor otherwise, so that a half would differ from the whole.
    fused = weights[0].is_cuda
    optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)
    for parameter in (*weights, *biases):
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.SGD, lr: float) -> None:
    """Change the rate as the paper's rule does, where the velocity v keeps its length.

    torch's SGD keeps v / -lr as its buffer, so that a change of rate would shrink the velocity at once; the buffers are scaled
    to leave v as it was.
    """
    for group in optimizer.param_groups:
        new = lr * group["multiplier"]
        if new != group["lr"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] *= group["lr"] / new
            group["lr"] = new


@dataclass
class Schedule:
    """The learning rate of each step; `reductions`, `best_error` and `since_best` are what it remembers of a plateau."""

    settings: ScheduleSettings
    base_lr: float
    reductions: int = 0
    best_error: float = float("inf")
    since_best: int = 0

    def learning_rate(self, epochs_done: float) -> float:
        """For a step that begins when so many epochs (with their fraction) are done."""
        if self.settings.kind == "steps":
            passed = sum(epochs_done >= boundary for boundary in self.settings.at_epochs)
        else:
            passed = self.reductions
        return self.base_lr * self.settings.factor**passed

    def after_validation(self, top1_error: float) -> bool:
        """Take note of a validation; True when the rate falls because of it."""
        if top1_error < self.best_error:
            self.best_error, self.since_best = top1_error, 0
            return False
        self.since_best += 1
        falls = (
            self.settings.kind == "plateau"
            and self.since_best >= self.settings.patience
            and self.reductions < self.settings.reductions
        )
        if falls:
            self.reductions, self.since_best = self.reductions + 1, 0
        return falls

    def state(self) -> dict[str, Any]:
        return {"reductions": self.reductions, "best_error": self.best_error, "since_best": self.since_best}

    def load_state(self, state: dict[str, Any]) -> None:
        self.reductions, self.best_error, self.since_best = (
            state["reductions"],
            state["best_error"],
            state["since_best"],
        )
