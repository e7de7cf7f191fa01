"""A composed configuration checked across its fields, before any process starts."""

from collections.abc import Mapping
from typing import Any

from alexnet_dist.errors import UserError
from alexnet_dist.fields import check
from alexnet_dist.model.table import Table
from alexnet_dist.settings import ScheduleSettings, Settings


def check_settings(config: Mapping[str, Any]) -> Settings:
    """The settings of a composed configuration (plain containers).

    Raises:
        UserError: an unknown key, a value of the wrong kind or out of bounds, a table that cannot be, or fields that
            contradict each other.
    """
    settings = check_net(config)
    if settings.data.root is None and settings.data.source != "quickstart":
        raise UserError(
            "data.root is not set: name the folder that holds train/ and val/ with data.root=... "
            "(or take data=quickstart, which makes its own images)"
        )
    if settings.init_layers is not None and settings.init_from is None:
        raise UserError(
            "init_layers is set and init_from is not: name the run or the weights whose layers they are with init_from=..."
        )
    if settings.init_from is not None and settings.resume not in ("auto", "none"):
        raise UserError(
            "resume and init_from are both set: resume=... goes on with a run, init_from=... begins a new one with its layers; "
            "give one"
        )
    _check_schedule(settings.schedule, settings.trainer.epochs)
    batch, slices = settings.trainer.batch_size, settings.trainer.slices
    if batch % slices:
        raise UserError(
            f"trainer.batch_size={batch} cannot be cut into trainer.slices={slices} slices: "
            f"take a multiple of {slices}, such as {-(-batch // slices) * slices}, or fewer slices"
        )
    table = settings.table()
    if settings.experiment and settings.experiment.replace("/", "_") != table.name:
        raise UserError(
            f"experiment={settings.experiment} is about the model of that name and cannot have model={table.name}: "
            "leave model= out, or take an experiment that is not about its model"
        )
    _check_layers(settings, table)
    return settings


def check_net(config: Mapping[str, Any]) -> Settings:
    """The settings as far as a net and its preprocessing need them: nothing is asked of data.root and the device.

    Raises:
        UserError: as `check_settings`.
    """
    settings = check(Settings, config)
    table = settings.table()
    if settings.data.size < table.input_size:
        raise UserError(
            f"data.size={settings.data.size} is less than the {table.input_size} pixels that the model reads: "
            f"set data.size={table.input_size} or more"
        )
    return settings


def _check_schedule(schedule: ScheduleSettings, epochs: int) -> None:
    if schedule.kind == "polynomial" and schedule.epochs is None:
        raise UserError(
            "schedule.kind=polynomial needs schedule.epochs, after which the rate is 0: take schedule=polynomial, which sets it"
        )
    if schedule.warmup_epochs >= epochs:
        raise UserError(
            f"schedule.warmup_epochs={schedule.warmup_epochs:g} leaves none of the {epochs} epochs at the full rate: "
            "set it to less than trainer.epochs"
        )


def _check_layers(settings: Settings, table: Table) -> None:
    names = {layer.name for layer in table.layers}
    said = {"optimizer.layers": set(settings.optimizer.layers)}
    said["schedule.phases"] = {name for phase in settings.schedule.phases for name in phase.layers}
    for where, layers in said.items():
        for name in sorted(layers - names):
            raise UserError(f"{where} names {name}, which the model lacks: its layers are {', '.join(sorted(names))}")
    epochs = [phase.epoch for phase in settings.schedule.phases]
    if epochs != sorted(set(epochs)):
        listed = ", ".join(f"{epoch:g}" for epoch in epochs)
        raise UserError(f"schedule.phases begin at epochs {listed}: put them in order, each epoch once")
