"""Error rates of a checkpoint, or of several averaged, on validation images; the last line printed is the record as JSON.

python -m alexnet_dist.evaluate checkpoint=runs/x data.root=/data/imagenet256 views=10
python -m alexnet_dist.evaluate checkpoint=[runs/a,runs/b] predictions=ab.npz
python -m alexnet_dist.evaluate checkpoint=[runs/a,runs/b] ensemble=found
torchrun --standalone --nproc-per-node 2 -m alexnet_dist.evaluate checkpoint=runs/x
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from alexnet_dist.data.images import Subset
from alexnet_dist.errors import UserError
from alexnet_dist.fields import FilePath, Positive, check, named, strict
from alexnet_dist.files import check_new, write_new
from alexnet_dist.launching.commands import distributed_command
from alexnet_dist.parallel.mesh import join_mesh, plan_layout
from alexnet_dist.parallel.process import enter_process, pick_device, world_size
from alexnet_dist.results.by_class import TABLE_WIDTH, errors_by_class, table, write_csv
from alexnet_dist.results.ensemble import find_weights, halves, right_chances
from alexnet_dist.results.predictions import predict_split
from alexnet_dist.results.submission import plan_submission
from alexnet_dist.results.trained import A_CHECKPOINT, Trained, check_fits, load_trained, number_as, open_trained
from alexnet_dist.results.validation import Voter, measure
from alexnet_dist.settings import OtherImages, PrecisionSettings
from alexnet_dist.text import views_of
from alexnet_dist.tracking.display import Display, validation_figures
from alexnet_dist.tracking.metrics import finite
from alexnet_dist.training.inputs import check_data, open_images, validation_feed


@dataclass(frozen=True, config=strict)
class Processes:
    processes: Positive
    timeout: float = Field(gt=0)


@dataclass(frozen=True, config=strict)
class EvaluateSettings:
    """What conf/evaluate.yaml may say."""

    checkpoint: FilePath | list[FilePath] | None
    ensemble: Literal["equal", "found"] | list[float]
    views: Literal[1, 10]
    batch_size: Positive
    device: Literal["auto", "cpu", "cuda"]
    per_class: FilePath | bool
    predictions: FilePath | None
    submission: FilePath | None
    devkit: FilePath | None
    data: OtherImages
    parallel: Processes
    precision: PrecisionSettings | None = None


def run(config: dict[str, Any]) -> None:
    """Evaluate, as one process of the mesh that RANK and WORLD_SIZE name."""
    wanted, nets = read_settings(config)
    first = nets[0].settings
    process = enter_process(wanted.device, first.precision.kind)
    check_layouts(nets, world_size())
    with ExitStack() as at_end:
        mesh = at_end.enter_context(join_mesh(nets[0].table.towers, process.device, wanted.parallel.timeout))
        display = at_end.enter_context(Display(mesh.rank))
        left, images = open_images(first, mesh, display, trains=False)
        for trained in nets:
            if isinstance(images, Subset) and trained.set_others_aside(left):
                display.say(
                    f"warning: {trained.checkpoint} was trained while other images were set aside than these: "
                    "it may have been trained on some of them"
                )
        devkit = Path(wanted.devkit) if wanted.devkit else None
        submission = plan_submission(images, devkit, display.say) if wanted.submission else None
        images = number_as(nets[0], images)
        voters = []
        for trained in nets:
            net, preprocess = load_trained(trained, process.device, mesh)
            voters.append(Voter(net, preprocess.views(wanted.views), process.autocast))
        weights, found_on = given_weights(wanted, nets), 0
        if wanted.ensemble == "found":
            known, images = halves(images)
            known_feed = validation_feed(first, known, mesh, process.cores)
            weights = find_weights(right_chances(voters, known_feed, len(known), mesh, display))
            found_on = len(known)
        feed = validation_feed(first, images, mesh, process.cores)
        if wanted.per_class or wanted.predictions or submission:
            figures, predictions = predict_split(voters, images, feed, mesh, display, weights)
        else:
            figures, predictions = measure(voters, feed, mesh, display, weights=weights), None
    if mesh.rank:
        return
    rows = errors_by_class(predictions) if predictions and wanted.per_class else []
    if rows and not isinstance(wanted.per_class, str):
        Console(width=max(display.console.width, TABLE_WIDTH)).print(table(rows))
    record = {"kind": "val", **_origin(nets), **figures}
    if weights is not None:
        record["ensemble"] = {"weights": weights, "found_on_images": found_on}
    display.say(validation_figures(record) if len(nets) == 1 else _ensemble_figures(record))
    print(json.dumps(finite(record)), flush=True)
    # Last, for a disk may be full.
    if predictions and wanted.predictions:
        write_new(Path(wanted.predictions), predictions.save)
    if predictions and submission and wanted.submission:
        write_new(Path(wanted.submission), lambda file: submission.write(predictions, file))
    if isinstance(wanted.per_class, str):
        write_new(Path(wanted.per_class), lambda file: write_csv(rows, file))


def read_settings(config: dict[str, Any]) -> tuple[EvaluateSettings, list[Trained]]:
    """The command's settings, and the checkpoints that they name with the settings of their runs as overridden here.

    Raises:
        UserError: a setting is wrong, there is no such checkpoint, a file to be written is there already, or the nets cannot
            be averaged.
    """
    wanted = check(EvaluateSettings, config)
    checkpoints = named(wanted.checkpoint, "checkpoint", A_CHECKPOINT)
    if wanted.submission and wanted.ensemble == "found":
        raise UserError("ensemble=found leaves out every second image, and a submission needs all: give it what was found")
    if wanted.devkit and not wanted.submission:
        raise UserError("devkit numbers the classes of a submission: name its file with submission=..., or leave devkit out")
    if isinstance(wanted.per_class, str):
        check_new("per_class", wanted.per_class, ".csv")
    if wanted.predictions is not None:
        check_new("predictions", wanted.predictions, ".npz")
    if wanted.submission is not None:
        check_new("submission", wanted.submission)
        if wanted.submission in (wanted.predictions, wanted.per_class):
            raise UserError(f"submission={wanted.submission} is another file's name too: give each its own")
    nets = [_overridden(open_trained(where), wanted, config) for where in checkpoints]
    for other in nets[1:]:
        check_fits(nets[0], other)
        check_precision(nets[0], other)
    given_weights(wanted, nets)
    return wanted, nets


def given_weights(wanted: EvaluateSettings, nets: Sequence[Trained]) -> list[float] | None:
    """The weights that `ensemble` lists, divided by their sum; None where it lists none.

    Raises:
        UserError: there are more or fewer than nets, or one net alone, one is negative, or all are 0.
    """
    if wanted.ensemble != "equal" and len(nets) == 1:
        raise UserError("ensemble weighs several nets: name them with checkpoint=[a,b] or leave it out")
    if isinstance(wanted.ensemble, str):
        return None
    if len(wanted.ensemble) != len(nets):
        raise UserError(f"ensemble has {len(wanted.ensemble)} weights for {len(nets)} nets: give one for each checkpoint")
    if min(wanted.ensemble) < 0 or not sum(wanted.ensemble):
        raise UserError("ensemble holds a weight below 0, or none above it: give the nets' shares, such as [0.7,0.3]")
    return [weight / sum(wanted.ensemble) for weight in wanted.ensemble]


def _overridden(trained: Trained, wanted: EvaluateSettings, config: dict[str, Any]) -> Trained:
    """The checkpoint under what is said here in place of its run's settings."""
    of_run = trained.state.config
    return trained.overridden(
        wanted.data,
        device=wanted.device,
        evaluation={"views": wanted.views, "batch_size": wanted.batch_size},
        precision=config.get("precision") or of_run["precision"],
        parallel={**of_run["parallel"], **config["parallel"]},
    )


def check_precision(first: Trained, other: Trained) -> None:
    """Raises UserError where two nets would compute in different precisions."""
    kinds = first.settings.precision.kind, other.settings.precision.kind
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{first.checkpoint} and {other.checkpoint} were trained in {kinds[0]} and {kinds[1]}: set precision= to one of them"
        )


def check_layouts(nets: Sequence[Trained], processes: int) -> None:
    """Raises UserError where so many processes would hold one of the nets in other shares than another."""
    layouts = {trained.table.towers: plan_layout(processes, trained.table.towers) for trained in nets}
    if len(set(layouts.values())) > 1:
        towers = " and ".join(map(str, layouts))
        raise UserError(f"{processes} processes hold nets of {towers} towers differently: evaluate them with one process")


def _origin(nets: Sequence[Trained]) -> dict[str, Any]:
    if len(nets) > 1:
        return {"checkpoints": [str(trained.checkpoint) for trained in nets]}
    return {"step": nets[0].state.step, "epoch": nets[0].state.epochs_done}


def _ensemble_figures(record: dict[str, Any]) -> str:
    alone = ", ".join(map(_both_errors, record["each"]))
    how, images = "averaged", "images"
    if weighing := record.get("ensemble"):
        how = "weighed " + ", ".join(f"{weight:.3f}" for weight in weighing["weights"])
        if found_on := weighing["found_on_images"]:
            how += f" (found on every second image, {found_on}; the figures are of the others)"
            images = "other images"
        alone += f"; averaged {_both_errors(record['equal'])}"
    return (
        f"{len(record['checkpoints'])} nets {how}: top-1 error {record['top1_error']:.2%}, top-5 {record['top5_error']:.2%}, "
        f"loss {record['loss']:.4f} ({record['images']} {images}, {views_of(record)}); alone: {alone}"
    )


def _both_errors(figures: dict[str, Any]) -> str:
    return f"{figures['top1_error']:.2%} / {figures['top5_error']:.2%}"


def prepare_start(config: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Check everything before a process is started; how many to start, and the configuration for them."""
    wanted, nets = read_settings(config)
    processes = wanted.parallel.processes
    check_layouts(nets, processes)
    pick_device(wanted.device, processes - 1, nets[0].settings.precision.kind)
    check_data(nets[0].settings, trains=False)
    return processes, config


def main() -> None:
    distributed_command("alexnet_dist.evaluate", "evaluate")


if __name__ == "__main__":
    main()
