"""Several runs beside one another: what differs, what each came to, and what the authors measured of the same experiments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_dist.figures.published import PUBLISHED
from alexnet_dist.figures.run_files import RunFiles

BASIS = "paper"  # the experiment that the paper's ablations are told against


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
    """An experiment's errors here and as the authors measured them (fractions), and how far each is from the paper's net's."""

    experiment: str
    here: tuple[float, float] | None
    here_worse: tuple[float, float] | None
    authors: tuple[float, float] | None
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
        own, theirs = _errors(run), _published_errors(experiment)
        rows.append(
            Ablation(
                experiment,
                here=own,
                here_worse=_less(own, basis) if experiment != BASIS else None,
                authors=theirs,
                authors_worse=_less(theirs, _published_errors(BASIS)) if experiment != BASIS else None,
                note=PUBLISHED[experiment].get("note", ""),
            )
        )
    return rows


def _errors(run: RunFiles) -> tuple[float, float] | None:
    last = run.final()
    return (last["top1_error"], last["top5_error"]) if last else None


def _published_errors(experiment: str) -> tuple[float, float] | None:
    found = PUBLISHED[experiment]
    return (found["top1"] / 100, found["top5"] / 100) if found.get("top1") is not None else None


def _less(errors: tuple[float, float] | None, basis: tuple[float, float] | None) -> tuple[float, float] | None:
    return (errors[0] - basis[0], errors[1] - basis[1]) if errors and basis else None


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat
