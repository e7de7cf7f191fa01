"""The update rules, the paper's and LARS, and the learning rate's way up and down."""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.sgd import sgd

from alexnet_dist.kernels.native import load_library
from alexnet_dist.settings import OptimizerSettings, Phase, ScheduleSettings
from alexnet_dist.training.rates import EVERY_EPOCH, group_parameters, phase_at

# Elements of a parameter that the CPU updates at a time: their weights, gradients and velocities stay in its cache meanwhile.
_BLOCK = 1 << 16


class MomentumSGD(torch.optim.Optimizer):
    """The paper's rule (section 5): v <- momentum v - lr (gradient + weight_decay w), w <- w + v.

    The velocity v holds the rate of each step that went into it, and is the state `momentum_buffer` of a parameter. A change of
    rate does nothing to it; torch's own SGD keeps a sum of gradients, which it multiplies with the rate of the day.

    Parameters of a group with a `trust` take LARS's steps instead (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm
    1): lr is multiplied with trust |w| / (|gradient| + weight_decay |w|), or with 1 where either norm is 0. The norms are those
    of the whole parameter, of which each process of `tower_group` holds its rows: their squares are summed over the group, in
    one message a step. Such a step overwrites the gradients.

    `update` does the rule on a CPU.
    """

    def __init__(
        self, net: nn.Module, settings: OptimizerSettings, tower_group: dist.ProcessGroup | None, update: "Update"
    ) -> None:
        super().__init__(net.parameters(), {})
        self._named = dict(net.named_parameters())
        self._settings = settings
        self._tower_group = tower_group
        self._update = update
        for parameter in self._named.values():
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.set_rates(settings.lr)

    def set_rates(self, lr: float, phase: Phase = EVERY_EPOCH) -> None:
        """The rates of the next steps, from that of the schedule and the phase under way; velocities keep their length."""
        self.param_groups = group_parameters(self._named.items(), self._settings, phase, lr)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step along the gradients that the parameters hold."""
        for group in self.param_groups:
            weights = group["params"]
            gradients = [weight.grad for weight in weights]
            velocities = [self.state[weight]["momentum_buffer"] for weight in weights]
            decay = group["weight_decay"]
            if group["trust"] is not None:
                rates = lars_rates(weights, gradients, group["trust"], decay, self._tower_group)
                for weight, gradient, rate in zip(weights, gradients, rates, strict=True):
                    gradient.add_(weight, alpha=decay).mul_(rate)
                decay = 0.0
            update = update_fused if weights[0].is_cuda and group["momentum"] else self._update
            update(weights, gradients, velocities, group["lr"], group["momentum"], decay)


# Weights, gradients and velocities of the same parameters; learning rate, momentum and weight decay.
Update = Callable[[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], float, float, float], None]


class CompiledUpdate:
    """The rule on a CPU in one pass over its float32 values, by as many threads as torch has.

    Raises:
        CompilerError: it cannot be compiled here.
    """

    def __init__(self) -> None:
        self._library = load_library(Path(__file__).with_name("update.cpp"))
        self._pool = ThreadPoolExecutor(thread_name_prefix="update")

    def __call__(
        self,
        weights: list[torch.Tensor],
        gradients: list[torch.Tensor],
        velocities: list[torch.Tensor],
        lr: float,
        momentum: float,
        decay: float,
    ) -> None:
        threads = torch.get_num_threads()
        numbers = [ctypes.c_float(number) for number in (lr, momentum, decay)]
        for weight, gradient, velocity in zip(weights, gradients, velocities, strict=True):
            assert weight.is_contiguous()
            assert weight.dtype == torch.float32
            gradient = gradient.contiguous()
            pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (weight, velocity, gradient)]
            bounds = [ctypes.c_int64(weight.numel() * i // threads) for i in range(threads + 1)]
            work = [(*pointers, *numbers, first, last) for first, last in pairwise(bounds)]
            if threads == 1:
                self._library.update(*work[0])
            else:
                list(self._pool.map(lambda arguments: self._library.update(*arguments), work))


def update_in_blocks(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    velocities: list[torch.Tensor],
    lr: float,
    momentum: float,
    decay: float,
) -> None:
    """The rule on a CPU, a few rows at a time; an element is rounded alike whatever rows a process holds.

    torch's fused kernel for CPUs rounds the last few elements of a tensor otherwise, so that a half would differ from the whole.
    """
    for triple in zip(weights, gradients, velocities, strict=True):
        rows = max(1, _BLOCK * len(triple[0]) // triple[0].numel())
        for weight, gradient, velocity in zip(*(tensor.split(rows) for tensor in triple), strict=True):
            velocity.mul_(momentum).add_(weight, alpha=-lr * decay).add_(gradient, alpha=-lr)
            weight.add_(velocity)


def update_fused(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    velocities: list[torch.Tensor],
    lr: float,
    momentum: float,
    decay: float,
) -> None:
    """The rule in torch's fused kernel, all parameters at once; momentum must not be 0.

    The kernel does v <- momentum v + (1 - dampening) (gradient + weight_decay w), w <- w - lr v.
    """
    sgd(
        weights, gradients, list(velocities), fused=True, weight_decay=decay, momentum=momentum, lr=-1.0, dampening=1 + lr,
        nesterov=False, maximize=False,
    )  # fmt: skip


def lars_rates(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    trust: float,
    decay: float,
    tower_group: dist.ProcessGroup | None,
) -> torch.Tensor:
    """trust |w| / (|gradient| + decay |w|) of each whole parameter, or 1 where either norm is 0: [parameters], of their dtype."""
    squares = torch.stack([_squared_norm(tensor) for tensor in (*weights, *gradients)])
    if tower_group is not None:
        dist.all_reduce(squares, group=tower_group)
    weight_norms, gradient_norms = squares.sqrt().chunk(2)
    rates = trust * weight_norms / (gradient_norms + decay * weight_norms)
    return torch.where((weight_norms > 0) & (gradient_norms > 0), rates, 1.0).to(weights[0].dtype)


def _squared_norm(rows: torch.Tensor) -> torch.Tensor:
    """Float64 scalar, from the norm of each row, which no layout divides: fp32 loses digits in a sum over millions."""
    return torch.linalg.vector_norm(rows.flatten(1), dim=1).double().square().sum()


def build_optimizer(
    net: nn.Module, settings: OptimizerSettings, tower_group: dist.ProcessGroup | None = None, compiled: bool = False
) -> MomentumSGD:
    """The optimizer of a net, or of a share of one whose other shares the processes of `tower_group` hold.

    `compiled`: on a CPU, by CompiledUpdate. LARS scales weights alone.
    """
    return MomentumSGD(net, settings, tower_group, CompiledUpdate() if compiled else update_in_blocks)


@dataclass
class Schedule:
    """The learning rate of each step; `reductions`, `best_error` and `since_best` are what it remembers of a plateau."""

    settings: ScheduleSettings
    base_lr: float
    reductions: int = 0
    best_error: float = float("inf")
    since_best: int = 0

    def phase(self, epochs_done: float) -> Phase:
        """What the phases say of a step that begins when so many epochs (with their fraction) are done."""
        return phase_at(self.settings.phases, epochs_done)

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
        return settings.factor**self.reductions

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
