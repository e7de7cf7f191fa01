"""What the net makes of the images: predictions, confusion, nearest neighbours, and what it looks at.

They are kept in examples.json beside the figures, so that the page and W&B can be made again without the images.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from alexnet_dist.checks import check_settings
from alexnet_dist.data.images import Images, Subset
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.fields import Positive
from alexnet_dist.figures.maps import Looks, look
from alexnet_dist.figures.neighbours import Neighbourhood, find_neighbours
from alexnet_dist.figures.page import write_whole
from alexnet_dist.figures.predictions import Outcome, predict
from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.figures.viewer import Viewer
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.process import pick_device, set_precision, share_cores
from alexnet_dist.results.predictions import output_names
from alexnet_dist.results.trained import Trained, number_as
from alexnet_dist.settings import OtherImages
from alexnet_dist.text import printable
from alexnet_dist.training.inputs import QUICKSTART_FOLDER, open_root
from alexnet_dist.training.state import SavedState

FILE = "examples.json"


@dataclass(frozen=True)
class ExampleOptions:
    """At most `images` validation images and `neighbours` training images are taken (None: all), on what device; `data` says
    where they are. `layer` is the one whose maps are shown; None: of every convolution some."""

    images: Positive | None
    neighbours: Positive | None
    batch_size: Positive
    device: Literal["auto", "cpu", "cuda"]
    data: OtherImages
    layer: str | None = None


@dataclass(frozen=True)
class Examples:
    """What the net made of validation and training images, at a step of the run; `names` are its outputs'."""

    step: int
    names: list[str]
    outcome: Outcome
    neighbourhood: Neighbourhood
    looks: Looks


@dataclass(frozen=True)
class _Kept:
    asked: dict[str, Any]
    examples: Examples


_KEPT = TypeAdapter(_Kept)


def find_examples(
    run: RunFiles,
    load: Callable[[], tuple[Net, Preprocess]],
    options: ExampleOptions,
    folder: Path,
    show: Callable[[str, int, int], None],
) -> Examples:
    """Let the run's net, which `load` gives, see its images; what it made of them is kept in `folder`.

    What is kept already is taken where it is of the same checkpoint, the same images and as many of them.

    Raises:
        UserError: there is no checkpoint, the images are not there or cannot be read, or they are of other classes.
        UnwritableError: they cannot be kept.
    """
    if run.checkpoint is None or run.state is None:
        raise UserError(f"{run.folder} has no checkpoint yet")
    settings = check_settings({**run.config, "data": options.data.in_place_of(run.config["data"])})
    root = settings.data.root or str(QUICKSTART_FOLDER)
    asked = {name: getattr(options, name) for name in ("images", "neighbours", "layer")}
    asked |= {"root": printable(root), "val_every": settings.data.val_every, **_checkpoint(run.state)}
    for kept in _kept(run, folder):
        if kept.asked == asked:
            return kept.examples
    train, validation = _open(Path(root), Trained(run.checkpoint, run.state, settings))
    device = pick_device(options.device, local_rank=0)
    set_precision("fp32", device)
    net, preprocess = load()
    viewer = Viewer(net.to(device), preprocess.to(device), device, settings.data.threads or share_cores(1), options.batch_size)
    names = output_names(validation.classes, viewer.net.table.classes)
    examples = Examples(
        step=run.state.step,
        names=names,
        looks=look(viewer, validation, names, options.layer),
        outcome=predict(viewer, validation, options.images, partial(show, "predictions")),
        neighbourhood=find_neighbours(viewer, validation, train, options.neighbours, partial(show, "neighbours")),
    )
    write_whole(folder / FILE, _KEPT.dump_json(_Kept(asked, examples)))
    return examples


def read_examples(run: RunFiles, folder: Path) -> Examples | None:
    """Those kept in `folder` or in the run's own figures/ that are of the run's last checkpoint; None where there are none."""
    for kept in _kept(run, folder):
        if run.state and _checkpoint(run.state).items() <= kept.asked.items():
            return kept.examples
    return None


def _checkpoint(state: SavedState) -> dict[str, Any]:
    """What tells it from others, also of another run whose page is written to the same place."""
    return {"step": state.step, "weights": state.weights}


def _kept(run: RunFiles, folder: Path) -> list[_Kept]:
    files = dict.fromkeys((folder / FILE, run.folder / "figures" / FILE))
    kept = []
    for file in files:
        if file.is_file():
            with suppress(ValidationError):  # an earlier version's, which holds less
                kept.append(_KEPT.validate_json(file.read_bytes()))
    return kept


def _open(root: Path, trained: Trained) -> tuple[Images, Images]:
    if not root.is_dir():
        raise UserError(f"the images are not there: there is no folder {root}; name it with data.root=...")
    train, validation = open_root(root, trained.settings.data)
    if len(train) == trained.state.training_images:  # then these are the ones, and some may be bad
        train = Subset(train, np.setdiff1d(np.arange(len(train)), trained.state.left_out))
    return number_as(trained, train), number_as(trained, validation)
