"""Error rates of a checkpoint on validation images; the last line printed is the record as JSON.

python -m alexnet_dist.evaluate checkpoint=runs/x data.root=/data/imagenet256 views=10
torchrun --standalone --nproc-per-node 2 -m alexnet_dist.evaluate checkpoint=runs/x
"""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from alexnet_dist.commands import distributed_command
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.model.net import Net
from alexnet_dist.model.share import Share
from alexnet_dist.parallel.mesh import join_mesh, pick_device, plan_layout, share_cores
from alexnet_dist.settings import Positive, Settings, check, check_settings, strict
from alexnet_dist.tracking.display import Display, validation_figures
from alexnet_dist.training.checkpoint import check_sound, find_checkpoint, load_checkpoint, read_state
from alexnet_dist.training.inputs import open_images, validation_feed
from alexnet_dist.training.step import set_precision
from alexnet_dist.training.validation import validate


@dataclass(frozen=True, config=strict)
class EvaluatedData:
    """Where the validation images are; what is null is as the checkpoint was trained."""

    root: str | None
    val_every: int | None
    threads: Positive | None


@dataclass(frozen=True, config=strict)
class Processes:
    processes: Positive
    timeout: float = Field(gt=0)


@dataclass(frozen=True, config=strict)
class EvaluateSettings:
    """What conf/evaluate.yaml may say."""

    checkpoint: str | None
    views: Literal[1, 10]
    batch_size: Positive
    device: Literal["auto", "cpu", "cuda"]
    data: EvaluatedData
    parallel: Processes


def run(config: dict[str, Any]) -> None:
    """Evaluate, as one process of the mesh that RANK and WORLD_SIZE name."""
    checkpoint, saved, settings = read_settings(config)
    table = settings.table()
    device = pick_device(settings.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    threads = share_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads)
    autocast = set_precision(settings.precision.kind, device)
    with ExitStack() as at_end:
        mesh = at_end.enter_context(join_mesh(table.towers, device, settings.parallel.timeout))
        display = at_end.enter_context(Display(mesh.rank))
        _, images = open_images(settings, mesh, display)
        if list(images.classes) != saved["classes"]:
            raise UserError(
                f"{checkpoint} was trained on {len(saved['classes'])} classes and the images' {len(images.classes)} are "
                "others: set data.root to images of the same classes"
            )
        net = Net(table, Share(mesh.share, mesh.layout.shares), mesh.crossing).to(device)
        preprocess = Preprocess(settings.data.size, table.input_size, settings.data.colour).to(device)
        if mesh.rank == 0:
            check_sound(checkpoint)
        load_checkpoint(checkpoint, saved, mesh, net, preprocess)
        feed = validation_feed(settings, images, mesh, threads)
        figures = validate(net, feed, preprocess.views(settings.evaluation.views), mesh, autocast, display)
    record = {"kind": "val", "step": saved["step"], "epoch": saved["epochs_done"], **figures}
    if mesh.rank == 0:
        display.say(validation_figures(record))
        print(json.dumps(record), flush=True)


def read_settings(config: dict[str, Any]) -> tuple[Path, dict[str, Any], Settings]:
    """The checkpoint that a configuration names, its state, and the settings it was trained with, as overridden here.

    Raises:
        UserError: a setting is wrong, or there is no such checkpoint.
    """
    wanted = check(EvaluateSettings, config)
    if wanted.checkpoint is None:
        raise UserError("checkpoint is not set: name a run folder or one of its checkpoints with checkpoint=...")
    checkpoint = find_checkpoint(Path(wanted.checkpoint))
    if checkpoint is None:
        raise UserError(f"checkpoint={wanted.checkpoint} holds no checkpoint: name a run folder or a step-... folder")
    saved = read_state(checkpoint)
    trained = saved["config"]
    data = {key: value for key, value in config["data"].items() if value is not None}
    return (
        checkpoint,
        saved,
        check_settings(
            {
                **trained,
                "device": wanted.device,
                "data": {**trained["data"], **data},
                "evaluation": {"views": wanted.views, "batch_size": wanted.batch_size},
                "parallel": {**trained["parallel"], **config["parallel"]},
            }
        ),
    )


def plan(config: dict[str, Any], job: int | None) -> tuple[int, dict[str, Any]]:
    """Check everything before a process is started; how many to start, and the configuration for them."""
    _, _, settings = read_settings(config)
    processes = settings.parallel.processes
    assert isinstance(processes, int)
    plan_layout(processes, settings.table().towers)
    pick_device(settings.device, processes - 1)
    return processes, config


def main() -> None:
    distributed_command("alexnet_dist.evaluate", "evaluate", plan)


if __name__ == "__main__":
    main()
