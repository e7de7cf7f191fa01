"""Rate, momentum and decay of each parameter: the optimizer's, its layer's own, and those of the phases that have begun."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch

from alexnet_dist.settings import LayerRates, OptimizerSettings, Phase

EVERY_EPOCH = Phase()  # with a schedule that has no phases


def group_parameters(
    named: Iterable[tuple[str, torch.nn.Parameter]], settings: OptimizerSettings, phase: Phase, lr: float
) -> list[dict[str, Any]]:
    """An optimizer's groups, each the parameters with the same lr, momentum, weight_decay and trust (None but of LARS's weights).

    Those of frozen layers are in none. `lr` is the schedule's, before all factors.
    """
    groups: dict[tuple[float | None, ...], dict[str, Any]] = {}
    layers = overlaid(Phase(layers=settings.layers), phase).layers
    for name, parameter in named:
        own = layers.get(name.rpartition(".")[0], LayerRates())
        if own.freeze:
            continue
        decay = settings.weight_decay if own.weight_decay is None else own.weight_decay
        momentum = settings.momentum if own.momentum is None else own.momentum
        rule: dict[str, float | None] = {
            "lr": lr * (phase.lr or 1) * (own.lr or 1),
            "momentum": momentum,
            "weight_decay": decay,
            "trust": settings.trust if settings.kind == "lars" else None,
        }
        if name.endswith("bias"):
            rule = {
                "lr": lr * settings.bias_lr_multiplier * (phase.bias_lr or phase.lr or 1) * (own.bias_lr or own.lr or 1),
                "momentum": momentum if own.bias_momentum is None else own.bias_momentum,
                "weight_decay": decay if settings.bias_weight_decay else 0.0,
                "trust": None,
            }
        groups.setdefault(tuple(rule.values()), {"params": [], **rule})["params"].append(parameter)
    return list(groups.values())


def overlaid(before: Any, said: Any) -> Any:
    """A dataclass's values where `said` leaves None, and mappings one over the other, each entry in the same way."""
    values = {}
    for field in fields(before):
        old, new = getattr(before, field.name), getattr(said, field.name)
        if isinstance(old, dict):
            new = old | {name: overlaid(old.get(name, LayerRates()), rates) for name, rates in new.items()}
        values[field.name] = old if new is None else new
    return type(before)(**values)
