"""What the net made of the images, kept in figures/seen.json so that the page and W&B can be made again without them."""

import base64
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_dist.data.images import Images
from alexnet_dist.errors import UserError
from alexnet_dist.figures.looking import Viewer
from alexnet_dist.figures.neighbours import Neighbour, Neighbourhood, Query, find_neighbours
from alexnet_dist.figures.predictions import Outcome, Prediction, names_of, predict
from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.figures.whole_net import load_whole_net
from alexnet_dist.parallel.process import pick_device, share_cores
from alexnet_dist.settings import Settings, check_settings
from alexnet_dist.training.inputs import QUICKSTART_FOLDER, open_root
from alexnet_dist.training.state import SavedState

FILE = "seen.json"


@dataclass(frozen=True)
class Looking:
    """How to look at images: at most `images` validation images and `neighbours` training images (None: all), on what device;
    `data` replaces keys of the run's own data settings."""

    images: int | None
    neighbours: int | None
    batch_size: int
    device: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What the net made of validation and training images, at a step of the run; `names` are its outputs'."""

    step: int
    names: list[str]
    outcome: Outcome
    neighbourhood: Neighbourhood


def look_at_images(run: RunFiles, looking: Looking, show: Callable[[str, int, int], None]) -> Seen:
    """Load the run's last checkpoint and look at its images; what was seen is written to figures/seen.json.

    What stands there already is taken where it is of the same checkpoint, the same images and as many of them.

    Raises:
        UserError: there is no checkpoint, the images are not there or cannot be read, or they are of other classes.
    """
    if run.state is None or run.checkpoint is None:
        raise UserError(f"{run.folder} has no checkpoint yet")
    settings = check_settings({**run.config, "data": {**run.config["data"], **looking.data}})
    asked = {"images": looking.images, "neighbours": looking.neighbours, "root": _root(settings), "step": run.state.step}
    kept = run.folder / "figures" / FILE
    if kept.is_file() and (read := json.loads(kept.read_text()))["asked"] == asked:
        return _decoded(read["seen"])
    train, validation = _open(settings, run.state)
    device = pick_device(looking.device, local_rank=0)
    net, preprocess = load_whole_net(run.checkpoint, settings, device)
    viewer = Viewer(net, preprocess, device, settings.data.threads or share_cores(1), looking.batch_size)
    seen = Seen(
        step=run.state.step,
        names=names_of(viewer, validation),
        outcome=predict(viewer, validation, looking.images, lambda done, total: show("looking at images", done, total)),
        neighbourhood=find_neighbours(
            viewer, validation, train, looking.neighbours, lambda done, total: show("looking for neighbours", done, total)
        ),
    )
    written = kept.with_name(f".{FILE}.partial")
    written.write_text(json.dumps({"asked": asked, "seen": asdict(seen)}, default=_encoded))
    os.replace(written, kept)
    return seen


def read_seen(run: RunFiles) -> Seen | None:
    """What was seen at the run's last checkpoint when the images were there; None where it was not kept."""
    kept = run.folder / "figures" / FILE
    if not kept.is_file():
        return None
    seen = _decoded(json.loads(kept.read_text())["seen"])
    return seen if run.state and seen.step == run.state.step else None


def _root(settings: Settings) -> str:
    return settings.data.root or str(QUICKSTART_FOLDER)


def _open(settings: Settings, state: SavedState) -> tuple[Images, Images]:
    root = Path(_root(settings))
    if not root.is_dir():
        raise UserError(f"the images are not there: there is no folder {root}; name it with data.root=...")
    train, validation = open_root(root, settings.data)
    if list(train.classes) != state.classes:
        raise UserError(f"the images in {root} are of other classes than those of the run; name its own with data.root=...")
    return train, validation


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    assert isinstance(value, np.ndarray)
    return value.tolist()


def _decoded(seen: dict[str, Any]) -> Seen:
    outcome, hood = seen["outcome"], seen["neighbourhood"]
    return Seen(
        step=seen["step"],
        names=seen["names"],
        outcome=Outcome(
            predictions=[
                Prediction(row["name"], row["label"], [(name, chance) for name, chance in row["best"]], _picture(row))
                for row in outcome["predictions"]
            ],
            confusion=np.array(outcome["confusion"], np.int64).reshape(-1, 3),
            seen=outcome["seen"],
            total=outcome["total"],
        ),
        neighbourhood=Neighbourhood(
            queries=[
                Query(
                    query["name"],
                    query["label"],
                    _picture(query),
                    [Neighbour(row["name"], row["label"], row["distance"], _picture(row)) for row in query["nearest"]],
                )
                for query in hood["queries"]
            ],
            layer=hood["layer"],
            searched=hood["searched"],
            total=hood["total"],
        ),
    )


def _picture(row: dict[str, Any]) -> bytes:
    return base64.b64decode(row["picture"])
