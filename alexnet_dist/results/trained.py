"""A checkpoint as others use it: what its run was, which classes its outputs stand for, and its net and preprocessing."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alexnet_dist.checks import check_net, check_settings
from alexnet_dist.data.images import Images, Relabelled
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.settings import OtherImages, Settings
from alexnet_dist.text import printable
from alexnet_dist.training.checkpoint import check_sound, find_saved, load_checkpoint
from alexnet_dist.training.state import SavedState

A_CHECKPOINT = "a run folder or one of its checkpoints"  # what the setting `checkpoint` names


@dataclass(frozen=True)
class Trained:
    """A checkpoint, what its state.json says, and the settings of its run."""

    checkpoint: Path
    state: SavedState
    settings: Settings

    @property
    def table(self) -> Table:
        return self.settings.table()

    @property
    def classes(self) -> list[str]:
        """Their names by label, to be shown; the net may have more outputs."""
        return [printable(name) for name in self.state.classes]

    @property
    def class_ids(self) -> list[str]:
        """As the data set calls them, by label."""
        return self.state.class_ids

    def overridden(self, data: OtherImages, **said: Any) -> "Trained":
        """Under what is said here in place of its run's settings. Raises UserError as `check_settings`."""
        of_run = self.state.config
        return replace(self, settings=check_settings({**of_run, **said, "data": data.in_place_of(of_run["data"])}))

    def set_others_aside(self, left: Images) -> bool:
        """Whether its run set validation images aside, and was trained on others than `left`."""
        set_aside = self.state.config["data"].get("val_every") is not None
        return set_aside and self.state.fingerprint not in (None, left.fingerprint())


def open_trained(where: str) -> Trained:
    """The checkpoint that a path means: itself, or the newest of a run folder.

    Raises UserError: there is none, or none that this program can read.
    """
    checkpoint, state = find_saved(Path(where))
    if checkpoint is None or state is None:
        raise UserError(f"checkpoint={where} holds no checkpoint: name a run folder or a step-... folder")
    return Trained(checkpoint, state, check_net(state.config))


def load_trained(trained: Trained, device: torch.device, mesh: Mesh | None = None) -> tuple[Net, Preprocess]:
    """The net, or this process's share of it, and the preprocessing, on the device.

    Raises UserError: the checkpoint's files are damaged.
    """
    table, data = trained.table, trained.settings.data
    net = Net(table, mesh.crossing if mesh else None).to(device)
    preprocess = Preprocess(data.size, table.input_size, data.mean).to(device)
    if mesh is None or mesh.rank == 0:
        check_sound(trained.checkpoint)
    load_checkpoint(trained.checkpoint, trained.state, mesh, net, preprocess)
    return net, preprocess


def check_fits(first: Trained, other: Trained) -> None:
    """Raises UserError where two nets cannot be averaged: each may have a table and a mean image of its own, but not these."""
    both = f"{first.checkpoint} and {other.checkpoint} cannot be averaged"
    if first.classes != other.classes and first.class_ids != other.class_ids:
        raise UserError(f"{both}: their classes are not the same, or not in the same order")
    if first.table.classes != other.table.classes:
        raise UserError(f"{both}: their last layers have {first.table.classes} and {other.table.classes} outputs")
    sizes = first.settings.data.size, other.settings.data.size
    if sizes[0] != sizes[1]:
        raise UserError(f"{both}: their images are scaled to {sizes[0]} and {sizes[1]} pixels (data.size)")


def number_as(trained: Trained, images: Images) -> Images:
    """The images with their classes numbered as the net's outputs are: themselves, or the same classes in another order.

    Raises UserError: they are of other classes.
    """
    if same_classes(trained.state, images):
        return images
    if len(set(trained.class_ids)) == len(trained.class_ids) and sorted(trained.class_ids) == sorted(images.class_ids):
        return Relabelled(images, trained.class_ids)
    raise UserError(
        f"{trained.checkpoint} was trained on {len(trained.classes)} classes and the images' {len(images.classes)} are "
        "others: set data.root to images of the same classes"
    )


def same_classes(state: SavedState, images: Images) -> bool:
    """Whether a checkpoint's classes are those of the images, in their order, by name or by id."""
    return list(images.classes) == state.classes or list(images.class_ids) == state.class_ids
