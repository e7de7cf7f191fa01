"""The update rules, the paper's and LARS, and the learning rate's way up and down."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from alexnet_dist.kernels.update import update, update_by_torch
from alexnet_dist.model.copies import Copy
from alexnet_dist.parallel.ordered_sum import tree_sum
from alexnet_dist.settings import OptimizerSettings, Phase, ScheduleSettings
from alexnet_dist.training.rates import EVERY_EPOCH, group_parameters, overlaid


class MomentumSGD(torch.optim.Optimizer):
    """The paper's rule (section 5): v <- momentum v - lr (gradient + weight_decay w), w <- w + v.

    The velocity v holds the rate of each step that went into it, and is the state `momentum_buffer` of a parameter. A change of
    rate does nothing to it; torch's own SGD keeps a sum of gradients, which it multiplies with the rate of the day.

    Parameters of a group with a `trust` take LARS's steps instead (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm
    1): lr is multiplied with trust |w| / (|gradient| + weight_decay |w|), or with 1 where either norm is 0. The norms are those
    of the whole parameter, of which each process of `tower_group` holds the rows of so many `towers`: the squares of each tower
    travel in one message a step for each such group, and are added in the order of the towers, whichever process holds them.

    `net` may be a share of `towers` towers, whose other shares the processes of `tower_group` hold. `copies` are kept of some
    parameters (model/copies.py), and written with them. `native`: by the device's fused operation.
    """

    def __init__(
        self,
        net: nn.Module,
        settings: OptimizerSettings,
        tower_group: dist.ProcessGroup | None = None,
        towers: int = 1,
        copies: Mapping[torch.Tensor, Copy] | None = None,
        native: bool = False,
    ) -> None:
        super().__init__(net.parameters(), {})
        self._named = dict(net.named_parameters())
        self._settings = settings
        self._tower_group = tower_group
        self._towers = towers
        self._update = update if native else update_by_torch
        self._weights: list[torch.Tensor] = list(self._named.values())
        self._places = {weight: place for place, weight in enumerate(self._weights)}
        self._copies = [(copies or {}).get(weight) for weight in self._weights]
        for weight in self._weights:
            self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        # On the device, where a step that is played back finds those of its day.
        self._numbers = torch.zeros(4, len(self._weights), dtype=torch.float64, device=self._weights[0].device)
        self._numbers_there: list[tuple[float, ...]] = []
        self.set_rates(settings.lr)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Of torch's, which imports torch's compiler for it, the groups are those of `set_rates`."""

    def set_rates(self, lr: float, phase: Phase = EVERY_EPOCH) -> None:
        """The rates of the next steps, from that of the schedule and the phase under way; velocities keep their length."""
        self.param_groups = group_parameters(self._named.items(), self._settings, phase, lr)
        rules: dict[torch.Tensor, tuple[float, ...]] = {
            weight: (group["lr"], group["momentum"], group["weight_decay"], 1.0)
            for group in self.param_groups
            for weight in group["params"]
        }
        numbers = [rules.get(weight, (0.0, 0.0, 0.0, 0.0)) for weight in self._weights]
        if numbers != self._numbers_there:
            host = torch.tensor(list(zip(*numbers, strict=True)), dtype=torch.float64)
            self._numbers.copy_(host.pin_memory() if self._numbers.is_cuda else host, non_blocking=True)
            self._numbers_there = numbers

    @torch.no_grad()
    def step(self, finite: torch.Tensor | None = None) -> None:  # type: ignore[override]
        """One step along the gradients that the parameters hold; none where the scalar `finite` is 0."""
        weights, none = self._weights, self._weights[0].new_empty(0)
        gradients = [none if weight.grad is None else weight.grad for weight in weights]
        velocities = [self.state[weight]["momentum_buffer"] for weight in weights]
        copies = [copy.tensor if copy else none for copy in self._copies]
        self._update(weights, velocities, gradients, copies, self._with_lars(), finite)
        torch.autograd.graph.increment_version(weights)  # an operation says nothing of what it changes
        for copy in self._copies:
            if copy:
                copy.written()

    def _with_lars(self) -> torch.Tensor:
        """The numbers of `update`, with LARS's rates for those that take its steps."""
        numbers = self._numbers
        for group in self.param_groups:
            if group["trust"] is not None:
                weights = group["params"]
                gradients = [weight.grad for weight in weights]
                rates = lars_rates(
                    weights, gradients, group["trust"], group["weight_decay"], self._tower_group, self._towers
                )
                numbers = numbers.clone() if numbers is self._numbers else numbers
                for weight, rate in zip(weights, rates, strict=True):
                    numbers[0, self._places[weight]] *= rate
        return numbers


def lars_rates(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    trust: float,
    decay: float,
    tower_group: dist.ProcessGroup | None,
    towers: int,
) -> torch.Tensor:
    """trust |w| / (|gradient| + decay |w|) of each whole parameter, or 1 where either norm is 0: float64 [parameters].

    Each process of the group holds the rows of so many towers, and all of them come to the same bits.
    """
    tensors = (*weights, *gradients)
    squares = torch.stack([_squared_norm(tensor.chunk(towers)[tower]) for tower in range(towers) for tensor in tensors])
    if tower_group is not None:
        everyone = [torch.empty_like(squares) for _ in range(tower_group.size())]
        dist.all_gather(everyone, squares, group=tower_group)
        squares = torch.cat(everyone)
    weight_norms, gradient_norms = tree_sum(list(squares.view(-1, len(tensors)))).sqrt().chunk(2)
    rates = trust * weight_norms / (gradient_norms + decay * weight_norms)
    return torch.where((weight_norms > 0) & (gradient_norms > 0), rates, 1.0)


def _squared_norm(rows: torch.Tensor) -> torch.Tensor:
    """Float64 scalar, from the norm of each row: fp32 loses digits in a sum over millions."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return torch.linalg.vector_norm(rows.flatten(1), dim=1, dtype=dtype).double().square().sum()


@dataclass
class Schedule:
    """The learning rate of each step; `reductions`, `best_error` and `since_best` are what it remembers of a plateau."""

    settings: ScheduleSettings
    base_lr: float
    reductions: int = 0
    best_error: float = float("inf")
    since_best: int = 0

    def phase(self, epochs_done: float) -> Phase:
        """What holds for a step that begins when so many epochs (with their fraction) are done: of each value what the last of
        the phases begun says of it."""
        return reduce(overlaid, (phase for phase in self.settings.phases if phase.epoch <= epochs_done), EVERY_EPOCH)

    def learning_rate(self, epochs_done: float) -> float:
        """Of such a step, before the factors of phases and layers."""
        return self.base_lr * self._decay(epochs_done) * self._warm_up(epochs_done)

    def _decay(self, epochs_done: float) -> float:
        settings = self.settings
        if settings.kind == "polynomial":
            assert settings.epochs is not None
            return max(0.0, 1 - epochs_done / settings.epochs) ** settings.power
        if settings.kind == "steps":
            return settings.factor ** sum(epochs_done >= boundary for boundary in settings.at_epochs)
        return settings.factor**self.reductions if settings.kind == "plateau" else 1.0

    def _warm_up(self, epochs_done: float) -> float:
        """From `warmup_from` to 1, a little more at every step (Goyal et al. 2017, arXiv 1706.02677, section 2.2)."""
        if epochs_done >= self.settings.warmup_epochs:
            return 1.0
        start = self.settings.warmup_from
        return start + (1 - start) * epochs_done / self.settings.warmup_epochs

    def after_validation(self, top1_error: float) -> bool:
        """Take note of a validation; True when the rate falls because of it."""
        if top1_error < self.best_error:
            self.best_error, self.since_best = top1_error, 0
            return False
        if self.settings.kind != "plateau":
            return False
        self.since_best += 1
        falls = self.since_best >= self.settings.patience and self.reductions < self.settings.reductions
        if falls:
            self.reductions, self.since_best = self.reductions + 1, 0
        return falls

    def state(self) -> dict[str, Any]:
        return {"reductions": self.reductions, "best_error": self.best_error, "since_best": self.since_best}

    def load_state(self, state: dict[str, Any]) -> None:
        self.reductions, self.best_error, self.since_best = state["reductions"], state["best_error"], state["since_best"]
