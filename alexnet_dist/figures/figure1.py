"""Figure 1 of the paper: how many epochs a net takes to a training error with ReLUs, and with units that saturate.

python -m alexnet_dist.figures.figure1 sweep=runs/sweep-2012-09-30_12-00-00
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from matplotlib.figure import Figure
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from alexnet_dist.errors import UserError
from alexnet_dist.fields import FilePath, check, named, strict
from alexnet_dist.figures.published import FIGURE_1
from alexnet_dist.figures.run_files import jobs_of_sweep, read_run
from alexnet_dist.kernels.steps import ACTIVATIONS
from alexnet_dist.launching.commands import command

FORMATS = (".png", ".svg", ".pdf")
_LINES = {"relu": "-", "tanh": "--", "sigmoid": ":"}  # as in the paper: ReLU solid, tanh dashed


@checked_dataclass(frozen=True, config=strict)
class Figure1Settings:
    """What conf/figure1.yaml may say."""

    sweep: FilePath | Annotated[tuple[FilePath, ...], Field(min_length=1)] | None
    error: Annotated[float, Field(gt=0, lt=1)]
    output: FilePath | None


@dataclass(frozen=True)
class Curve:
    """A run's training error, a fraction, by epochs, over the images since the point before."""

    activation: str
    lr: float
    epochs: list[float]
    errors: list[float]

    def reached(self, error: float) -> float | None:
        """Epochs until the first point at or below `error`, or None."""
        return next((epoch for epoch, value in zip(self.epochs, self.errors, strict=True) if value <= error), None)


def run(config: dict[str, Any]) -> None:
    """Draw the figure of a sweep and print what it shows."""
    settings = check(Figure1Settings, config)
    folders = [Path(name) for name in named(settings.sweep, "sweep", "the folder of a sweep with experiment=figure1")]
    output = Path(settings.output) if settings.output else folders[0] / "figure1.svg"
    if output.suffix not in FORMATS:
        raise UserError(f"output={output} has no ending of a picture: take one of {', '.join(FORMATS)}")
    curves = read_curves(folders)
    best = best_curves([curve for curve in curves if curve.epochs], settings.error)
    if not best:
        raise UserError(f"{folders[0]} has no line of training yet: let a run go on to trainer.log_every steps at least")
    for curve in curves:
        print(_line(curve, settings.error) + ("  <- the best" if curve is best.get(curve.activation) else ""))
    print(verdict(best, settings.error))
    try:
        draw(best, settings.error).savefig(output, dpi=150)
    except OSError as error:
        raise UserError(f"output={output} cannot be written ({error.strerror}): name another file") from None
    print(f"drawn: {output}")


def read_curves(folders: Sequence[Path]) -> list[Curve]:
    """The training errors of all runs of the sweeps, ordered by activation and learning rate; of one that diverged before its
    first line there are none.

    Raises:
        UserError: a folder without runs, or a run that is not one of a net with one kind of activation.
    """
    curves = []
    for run in (read_run(job) for folder in folders for job in jobs_of_sweep(folder)):
        kinds = {operation.kind for layer in run.table().layers for operation in layer.then} & set(ACTIVATIONS)
        if len(kinds) != 1:
            raise UserError(f"{run.folder} has {' and '.join(sorted(kinds)) or 'no'} activations: take runs with one kind each")
        epochs, errors = ([record[figure] for record in run.of_kind("train")] for figure in ("epoch", "top1_error"))
        curves.append(Curve(kinds.pop(), run.config["optimizer"]["lr"], epochs, errors))
    return sorted(curves, key=lambda curve: (list(ACTIVATIONS).index(curve.activation), curve.lr))


def best_curves(curves: Sequence[Curve], error: float) -> dict[str, Curve]:
    """For each activation the run that reached `error` first, or, where none did, the one that came nearest."""

    def place(curve: Curve) -> tuple[float, float]:
        return curve.reached(error) or float("inf"), min(curve.errors)

    return {
        activation: min((curve for curve in curves if curve.activation == activation), key=place)
        for activation in dict.fromkeys(curve.activation for curve in curves)
    }


def verdict(best: dict[str, Curve], error: float) -> str:
    """How many times sooner ReLU is than the others, and what the authors found, in a line."""
    relu = best["relu"].reached(error) if "relu" in best else None
    if relu is None:
        return f"no run with ReLUs has reached a training error of {100 * error:g}%"
    parts = []
    for activation, curve in best.items():
        other = curve.reached(error)
        if activation != "relu" and (other or curve.epochs[-1] > relu):  # one that ended before tells nothing
            times = f"{other / relu:.1f}" if other else f"more than {curve.epochs[-1] / relu:.1f}"
            parts.append(f"{times} times sooner than {activation}")
    said = f"ReLU reaches a training error of {100 * error:g}% after {relu:.1f} epochs"
    authors = f"{FIGURE_1['times_sooner']} times sooner than tanh to {FIGURE_1['training_error']:g}%, {FIGURE_1['note']}"
    return f"{said}, {', '.join(parts)} (the authors: {authors})" if parts else said


def draw(best: dict[str, Curve], error: float) -> Figure:
    """Training error against epochs, a line for each activation, and the error they race to."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    beside: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
    for activation, curve in best.items():
        name = {"relu": "ReLU"}.get(activation, activation)
        label = f"{name}, learning rate {curve.lr:g}"
        axes.plot(curve.epochs, curve.errors, _LINES[activation], color="black", linewidth=1.3, label=label)
        if (epoch := curve.reached(error)) is not None:
            axes.annotate(f"{epoch:.1f} epochs", (epoch, error), xytext=(0, -14), **beside, ha="center")
    axes.axhline(error, color="grey", linewidth=0.8)
    axes.annotate(f"{100 * error:g}%", (1, error), xycoords=("axes fraction", "data"), xytext=(3, -3), **beside)
    axes.set(xlabel="epochs", ylabel="training error", xlim=(0, None), ylim=(0, None))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _line(curve: Curve, error: float) -> str:
    if epochs := curve.reached(error):
        end = f"{100 * error:g}% after {epochs:.1f} epochs"
    elif not curve.epochs:
        end = "no line of training: not begun, or ended before its first"
    else:
        end = f"{min(curve.errors):.1%} at best in {curve.epochs[-1]:.1f} epochs"
    return f"{curve.activation:8} learning rate {curve.lr:<8g} {end}"


def main() -> None:
    command("figure1", run)


if __name__ == "__main__":
    main()
