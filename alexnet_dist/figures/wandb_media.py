"""What W&B shows and keeps of a run's figures and files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
from PIL import Image

from alexnet_dist.figures.examples import Examples, read_examples
from alexnet_dist.figures.run_files import RunFiles, read_run
from alexnet_dist.figures.viewer import open_picture
from alexnet_dist.tracking.wandb_run import WandbRun

_OF_WEIGHTS = ("kernels.png", "filters.png")
_OF_EXAMPLES = ("predictions.webp", "maps.webp", "neighbours.webp")


def hand_over(run_dir: Path, run: WandbRun, with_artifacts: bool) -> None:
    """Give a W&B run the figures of a run folder and, where they are wanted, its checkpoints and report."""
    files = read_run(run_dir)
    run.log_media(media(files), files.records[-1]["step"] if files.records else 0)
    if with_artifacts:
        for artifact, aliases in artifacts(run_dir, run.id):
            run.log_artifact(artifact, aliases)


def media(run: RunFiles) -> dict[str, Any]:
    """The pictures of figures/ and the tables behind them, by W&B's names; those of the last checkpoint alone."""
    shown: dict[str, Any] = {}
    examples = read_examples(run, run.folder / "figures")
    for name in (*_OF_WEIGHTS, *(_OF_EXAMPLES if examples else ())):
        if (path := run.folder / "figures" / name).is_file():
            with Image.open(path) as picture:
                if name in _OF_WEIGHTS and run.state and picture.info.get("Source") != run.state.weights:
                    continue
                shown[f"figures/{path.stem}"] = wandb.Image(picture.convert("RGBA"), caption=path.stem)
    if examples:
        shown["figures/prediction_table"] = _prediction_table(examples)
        shown["figures/neighbour_table"] = _neighbour_table(examples)
    return shown


def artifacts(run_dir: Path, run_id: str) -> Iterator[tuple[wandb.Artifact, list[str]]]:
    """The checkpoints that `latest` and `best` name, each once, and report.html with figures/; with their aliases."""
    checkpoints = run_dir / "checkpoints"
    aliases: dict[str, list[str]] = {}
    for pointer in ("latest", "best"):
        if (checkpoints / pointer).is_file():
            aliases.setdefault((checkpoints / pointer).read_text().strip(), []).append(pointer)
    for name, own in sorted(aliases.items()):
        checkpoint = wandb.Artifact(f"checkpoint-{run_id}", type="model", metadata={"checkpoint": name})
        checkpoint.add_dir(str(checkpoints / name), name=name)
        yield checkpoint, [*own, name]
    if (run_dir / "report.html").is_file():
        report = wandb.Artifact(f"report-{run_id}", type="report")
        report.add_file(str(run_dir / "report.html"))
        report.add_dir(str(run_dir / "figures"), name="figures")
        yield report, ["latest"]


def _prediction_table(examples: Examples) -> wandb.Table:
    best = max(len(prediction.best) for prediction in examples.outcome.predictions)
    said = [f"{what} {place}" for place in range(1, best + 1) for what in ("said", "probability")]
    table = wandb.Table(columns=["image", "name", "label", "right", *said])
    for shown in examples.outcome.predictions:
        labels = [value for label_and_chance in shown.best for value in label_and_chance]
        table.add_data(wandb.Image(open_picture(shown.picture)), shown.name, shown.label, shown.place == 0, *labels)
    return table


def _neighbour_table(examples: Examples) -> wandb.Table:
    table = wandb.Table(columns=["image", "label", "place", "neighbour", "neighbour's label", "distance"])
    for query in examples.neighbourhood.queries:
        for place, near in enumerate(query.nearest, 1):
            own, other = (wandb.Image(open_picture(encoded)) for encoded in (query.picture, near.picture))
            table.add_data(own, query.label, place, other, near.label, near.distance)
    return table
