"""Several runs beside one another: what differs, what each came to, and what the authors measured of the same experiments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_dist.figures.published import PUBLISHED
from alexnet_dist.figures.run_files import RunFiles

BASIS = "paper"  # the net that the others are told to be worse than


@dataclass(frozen=True)
class Job:
    """A run of several: `differs` are the words that set it apart, `kernels` its drawn kernels and `colours` their numbers."""

    name: str
    run: RunFiles
    differs: list[str]
    kernels: Path | None
    colours: list[float]


@dataclass(frozen=True)
class Ablation:
    """An experiment's top-1 and top-5 errors here and as the authors measured them, as fractions, and by how much either is
    worse than the paper's net on the same images."""

    experiment: str
    here: tuple[float, float] | None
    here_worse: tuple[float, float] | None
    authors: tuple[float, float]
    authors_worse: tuple[float, float] | None
    note: str


@dataclass(frozen=True)
class Comparison:
    """`curves` are the drawn curves of all; `ablations` the experiments that the authors ran too, where there are any."""

    curves: Path | None
    ablations: list[Ablation]


def what_differs(runs: Sequence[RunFiles]) -> list[list[str]]:
    """For each run the overrides that not all have; where none has noted its own, the settings whose values differ."""
    overrides = [run.overrides() for run in runs]
    if any(overrides):
        common = set(overrides[0]).intersection(*overrides[1:])
        return [[word for word in own if word not in common and not word.startswith("run.dir=")] for own in overrides]
    settings = [_flat(run.config) for run in runs]
    keys = sorted(set().union(*settings) - {"run.dir", "tracking.name", "tracking.group"})
    varied = [key for key in keys if len({repr(own.get(key)) for own in settings}) > 1]
    return [[f"{key}={own[key]}" for key in varied if key in own] for own in settings]


def published_of(run: RunFiles) -> Mapping[str, Any] | None:
    """What the authors measured of a run's experiment."""
    experiment = run.experiment()
    return PUBLISHED.get(experiment) if experiment else None


def ablations(runs: Sequence[RunFiles]) -> list[Ablation]:
    """The experiments among the runs that the authors ran too, in the order of the runs; empty where there is none."""
    measured = [(experiment, run) for run in runs if (experiment := run.experiment()) and experiment in PUBLISHED]
    basis = next((_errors(run) for experiment, run in measured if experiment == BASIS), None)
    rows = []
    for experiment, run in measured:
        own, told = _errors(run), PUBLISHED[experiment]
        rows.append(
            Ablation(
                experiment,
                here=own,
                here_worse=(own[0] - basis[0], own[1] - basis[1]) if own and basis and experiment != BASIS else None,
                authors=_fractions(told["top1"], told["top5"]),
                authors_worse=_fractions(*told["worse"]) if "worse" in told else None,
                note=f"{told['data']}, {told['note']}",
            )
        )
    return rows


def _errors(run: RunFiles) -> tuple[float, float] | None:
    last = run.final()
    return (last["top1_error"], last["top5_error"]) if last else None


def _fractions(top1: float, top5: float) -> tuple[float, float]:
    return top1 / 100, top5 / 100


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat
