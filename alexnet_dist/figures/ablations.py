"""The paper's claims beside one another: by how much each net of a sweep is worse than the whole one, over its seeds, and what
the authors measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from alexnet_dist.figures.published import AS_RUN, PUBLISHED, WORSE_BY
from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.figures.style import BLUE, ORANGE, drawing

# The nets that others are told to be worse than: of the paper's experiments, of the nets as the authors ran them, of small/.
PAPER, NET145, SMALL = "paper", "net145", "tiny_imagenet"

# Overrides that a deeper net has beside it, as the authors' sixth convolution had.
_BEGUN_WITH = {"init_from", "init_layers"}

Errors = tuple[float, float]  # top-1 and top-5, fractions


@dataclass(frozen=True)
class Ablation:
    """An experiment over its seeds; `differs` are the overrides that set it apart beside experiment and seed.

    `here` are the mean errors, `seeds` the errors of each run, `here_worse` by how much the mean is worse than that of the whole
    net, and `worse_by_seed` by how much each run's top-1 error is. `authors` and `authors_worse` are the authors' figures, of
    top-1 and top-5, as far as they gave them. All are fractions.
    """

    experiment: str
    differs: list[str]
    seeds: list[Errors]
    here: Errors
    here_worse: Errors | None
    worse_by_seed: list[float]
    authors: Errors | None
    authors_worse: tuple[float, float | None] | None
    note: str

    @property
    def label(self) -> str:
        return " ".join((self.experiment, *self.differs))

    @property
    def spread(self) -> Errors:
        """Half of what lies between the best and the worst seed's errors."""
        top1, top5 = np.ptp(self.seeds, axis=0) / 2
        return float(top1), float(top5)


def ablations(runs: Sequence[RunFiles]) -> list[Ablation]:
    """The experiments among the runs that the authors ran too, in the order of the runs; those that only the seed sets apart are
    one, and are compared with runs of the whole net under the same other overrides, whatever layers a net was begun with. Runs
    that are not complete do not count. Empty where there is none."""
    measured: dict[tuple[str, tuple[str, ...]], list[Errors]] = {}
    for run in runs:
        experiment, last = _experiment(run), run.final()
        told = experiment == SMALL or _name(experiment) in PUBLISHED or _name(experiment) in WORSE_BY
        if experiment and told and last and run.outcome == "done":
            measured.setdefault((experiment, _others(run)), []).append((last["top1_error"], last["top5_error"]))
    common = set.intersection(*(set(others) for _, others in measured)) if measured else set()
    return [
        _ablation(
            experiment,
            [said for said in others if said not in common],
            seeds,
            measured.get((_whole(experiment), tuple(said for said in others if said.partition("=")[0] not in _BEGUN_WITH))),
        )
        for (experiment, others), seeds in measured.items()
    ]


def _ablation(experiment: str, differs: list[str], seeds: list[Errors], whole: list[Errors] | None) -> Ablation:
    here, name = _mean(seeds), _name(experiment)
    told, (worse, note) = PUBLISHED.get(name), WORSE_BY.get(name, (None, ""))
    basis = None if whole is None or experiment == _whole(experiment) else _mean(whole)
    authors = (told["top1"] / 100, told["top5"] / 100) if told and experiment == name else None
    return Ablation(
        experiment,
        differs,
        seeds,
        here,
        here_worse=(here[0] - basis[0], here[1] - basis[1]) if basis else None,
        worse_by_seed=[top1 - basis[0] for top1, _ in seeds] if basis else [],
        authors=authors,
        authors_worse=None if worse is None else (worse[0] / 100, None if worse[1] is None else worse[1] / 100),
        note=f"{told['data']}, {told['note']}" if told and authors else note,
    )


def draw_ablations(rows: Sequence[Ablation], path: Path) -> bool:
    """By how many points of top-1 error each is worse than the whole net: a point for each seed, a line at their mean, and a
    diamond where the authors' figure lies. False, and no file, where there is nothing to compare."""
    rows = [row for row in rows if row.here_worse]
    if not rows:
        return False
    with drawing(path, 76 + 26 * len(rows)) as figure:
        axes = figure.subplots()
        axes.axvline(0, color="grey", linewidth=0.8)
        for place, row in enumerate(rows):
            assert row.here_worse is not None
            points = [100 * worse for worse in row.worse_by_seed]
            axes.plot(points, [place] * len(points), "o", color=BLUE, alpha=0.6, label="here, a seed" if not place else None)
            mean_here = 100 * row.here_worse[0]
            axes.plot([mean_here] * 2, [place - 0.3, place + 0.3], color=BLUE, label="here, mean" if not place else None)
        told = [(100 * row.authors_worse[0], place) for place, row in enumerate(rows) if row.authors_worse]
        if told:
            axes.plot(*zip(*told, strict=True), "D", color=ORANGE, label="the authors")
        axes.set_yticks(range(len(rows)), [_name(row.label) for row in rows])
        axes.invert_yaxis()
        axes.set_title("Worse than the whole net, points of top-1 error")
        axes.grid(axis="x")
        figure.legend(loc="outside lower right", ncols=3, fontsize=8)
    return True


def _mean(errors: Sequence[Errors]) -> Errors:
    return mean(top1 for top1, _ in errors), mean(top5 for _, top5 in errors)


def _experiment(run: RunFiles) -> str:
    """Of the experiments without a model of their own one is an ablation."""
    is_whole = run.config["model"].get("name") == SMALL
    return "small/no_colour" if is_whole and run.chosen_experiment() == "small/no_colour" else run.experiment()


def _others(run: RunFiles) -> tuple[str, ...]:
    """The overrides of a run but those for its experiment and seed, and for what is no part of the training: the processes that
    do it, the folder that keeps it."""

    def sets_apart(said: str) -> bool:
        name = said.lstrip("+").partition("=")[0]
        elsewhere = name.partition(".")[0] in ("run", "tracking", "parallel", "resume") and name != "parallel.wire"
        return name not in ("experiment", "seed") and not elsewhere

    return tuple(sorted(filter(sets_apart, run.overrides())))


def _name(experiment: str) -> str:
    return experiment.removeprefix("small/")


def _whole(experiment: str) -> str:
    if experiment == NET145 or experiment in AS_RUN:
        return NET145
    return SMALL if experiment == SMALL or experiment.startswith("small/") else PAPER
