"""The training run, from top to bottom.

python -m alexnet_dist.train                                       two processes of its own
torchrun --standalone --nproc-per-node 2 -m alexnet_dist.train     the same under a launcher
python -m alexnet_dist.train -m optimizer.lr=0.005,0.01            a sweep: processes and a run folder for each job
"""

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import record_function

from alexnet_dist.checks import check_settings
from alexnet_dist.data.bad_image import BadImageError
from alexnet_dist.data.images import Images
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import RunFailed, Stopped, UserError
from alexnet_dist.figures.closing import leave_report
from alexnet_dist.launching.commands import distributed_command
from alexnet_dist.launching.outer import job_name
from alexnet_dist.launching.wandb_account import check_variables
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Layout, Mesh, check_place, default_processes, join_mesh, plan_layout
from alexnet_dist.parallel.process import Process, enter_process, pick_device
from alexnet_dist.results.validation import Validation
from alexnet_dist.settings import Settings
from alexnet_dist.text import as_word, counted
from alexnet_dist.tracking.display import Display
from alexnet_dist.tracking.record import Record
from alexnet_dist.tracking.run_folder import RunFolder, name_run_folder, read_outcome
from alexnet_dist.training.bad_images import GoodBatches, leave_out
from alexnet_dist.training.bad_numbers import Inputs, leave_out_or_stop
from alexnet_dist.training.checkpoint import load_checkpoint
from alexnet_dist.training.initial import choose_layers, take_layers
from alexnet_dist.training.inputs import (
    check_same_data,
    check_training_data,
    gather_statistics,
    open_images,
    training_feed,
    validation_feed,
)
from alexnet_dist.training.later import Later
from alexnet_dist.training.meter import ErrorCount, Meter, Stretch
from alexnet_dist.training.resuming import check_resume, check_same_run, choose_checkpoint, have_other_images, what_differs
from alexnet_dist.training.saving import Checkpoints
from alexnet_dist.training.state import SavedState, TrainingState
from alexnet_dist.training.step import WIRES, Step, load_kernels, narrow_copies, same_bits
from alexnet_dist.training.stopping import Stopping
from alexnet_dist.training.update import MomentumSGD, Schedule
from alexnet_dist.training.watching import Watchers


def run(config: dict[str, Any]) -> None:
    """Train, as one process of the mesh that RANK and WORLD_SIZE name."""
    settings = check_settings(config)
    table, trainer, parallel = settings.table(), settings.trainer, settings.parallel
    kind, deterministic = settings.precision.kind, trainer.deterministic
    process = enter_process(settings.device, kind, table.towers * trainer.slices, parallel.threads, deterministic)
    device, autocast = process.device, process.autocast

    with ExitStack() as at_end:
        # ------------------------------------------------------------------------------ the mesh, and where the run is kept
        mesh = at_end.enter_context(join_mesh(table.towers, device, parallel.timeout, WIRES[parallel.wire], parallel.overlap))
        check_batch(settings, mesh.layout)
        check_place(mesh.layout, mesh.rank, parallel.spread)
        folder = RunFolder(mesh.from_first(None if mesh.rank else run_path(settings)), mesh.rank)
        at_end.enter_context(folder.held())
        mesh.peers.recordings = folder.path / "flight-recorder"
        display = at_end.enter_context(Display(mesh.rank))
        leave_early = partial(leave_before_the_first_step, mesh, folder, display)
        stopping = at_end.enter_context(Stopping(mesh.host_group, leave_early))
        display.say(
            f"{table.name}: {counted(table.towers, 'tower')} in {counted(mesh.layout.shares, 'process')}, "
            f"replicas: {mesh.layout.replicas}, {device.type}, {kind}; run folder {folder.path}"
        )

        # ------------------------------------------------------------------------------ the data, the net, and where it stopped
        train_images, val_images = open_images(settings, mesh, display)
        state = new_state(settings, mesh, len(train_images), display)
        own, origin = begin(settings, config, folder, train_images, state, mesh, process, display)
        net, preprocess, optimizer = state.net, state.preprocess, state.optimizer
        step = Step(net, preprocess, optimizer, mesh, trainer, settings.seed, autocast, display.say)
        at_end.callback(step.release)
        if device.type == "cpu":
            display.say(same_bits(trainer.slices, table.towers, mesh.layout, process.threads))
        open_feed = partial(training_feed, settings, train_images, mesh, process.cores)
        feed = at_end.enter_context(GoodBatches(open_feed, state, settings, folder, mesh, display))
        feed.mend()
        last_step = min(state.step + feed.batches_until(trainer.epochs), trainer.max_steps or sys.maxsize)
        stop_error = trainer.stop_at_training_error or -1.0
        if state.training_error <= stop_error:
            last_step = state.step
        trained_before = own if own and state.step >= last_step else None

        # ------------------------------------------------------------------------------ what is kept of it
        record = at_end.enter_context(Record(folder, settings.tracking, (trained_before or origin).config, display))
        at_end.callback(mesh.peers.rest)  # W&B may take its time
        record.open(state.step, own.metrics_bytes if own else 0, device, mesh.layout.processes, settings.run.overrides)
        meter = Meter(mesh, trainer.batch_size, table, kind)
        watchers = at_end.enter_context(Watchers(settings, state.net, mesh, record, state.step, len(train_images.classes)))
        val_feed = validation_feed(settings, val_images, mesh, process.cores)
        later = Later()
        pause = partial(meter.pause, later.settle)
        validation = Validation(state, trainer.validate_every, val_feed, mesh, autocast, display, record, pause, stopping.check)
        describe = partial(state.saved, origin, record.position)
        checkpoints = at_end.enter_context(
            Checkpoints(folder.path, settings.checkpoint, mesh, display, state, describe, own.step if own else None, pause)
        )

        def hear(step_number: int, inputs: Callable[[], Inputs], told: Sequence[torch.Tensor]) -> None:
            if not told[0]:
                leave_out_or_stop(trainer.on_nan, step_number, state, inputs(), mesh, autocast, display, checkpoints)

        def log(now: dict[str, Any], lr: float, stretch: Stretch, images: int, told: Sequence[torch.Tensor]) -> None:
            loss, wrong = (value.item() for value in told)
            state.training_error = wrong / images
            errors = {"top1_error": state.training_error, "skipped_updates": state.skipped}
            record.training({"kind": "train", **now, "lr": lr, "loss": loss, **meter.read(stretch), **errors}, last_step)

        # ------------------------------------------------------------------------------ the loop
        try:
            while True:
                # A step boundary: the ranks agree whether to go on, and what is due is done.
                time_is_up = stopping.check(checkpoints.time_due(), feed.met_bad())
                if stopping.bad_image_met():
                    feed.mend()
                validated = validation.at_boundary()
                checkpoints.at_boundary(last_step, time_is_up, validated)
                mesh.peers.progressed(state.step)
                if state.step >= last_step:
                    break

                number, logged = state.step + 1, (state.step + 1) % trainer.log_every == 0
                with watchers.step(number, logged) as watched:
                    with record_function("feed"):
                        batch = next(feed)
                    lr, phase = state.schedule.learning_rate(state.epochs_done), state.schedule.phase(state.epochs_done)
                    optimizer.set_rates(lr, phase)
                    colour = settings.data.colour and phase.colour is not False
                    loss, wrong, good = step.take(batch, state.step, colour, phase, eagerly=watched)
                later.settle()  # of the step before: this one is under way
                inputs = partial(step.inputs, batch, state.step, colour)
                later.read([good], partial(hear, number, inputs))
                state.advance(trainer.batch_size)
                state.errors.add(wrong, trainer.batch_size)
                meter.step()

                if logged:
                    wrong, images = state.errors.taken()
                    now = {"step": number, "epoch": state.epochs_done}
                    later.read([loss, wrong], partial(log, now, lr * (phase.lr or 1), meter.stretch(), images))
                if watchers.active or trainer.stop_at_training_error:
                    later.settle()
                    watchers.tell(number, state.epochs_done, loss, logged)
                    if state.training_error <= stop_error:
                        last_step = state.step
                        display.say(f"training error {state.training_error:.2%}, step {last_step}: it ends here")

            if not checkpoints.finish():
                raise RunFailed(
                    f"the last step, {state.step}, could not be saved, so the run is not done: make room for a checkpoint, and "
                    f"with {as_word('run.dir', folder.path)} it goes on from step {checkpoints.saved_step or 0}"
                )
            weights = validation.validate(settings.evaluation.views)["weights"]
        except BadImageError as error:
            if checkpoints.finish():
                error.args = (f"{error}; step {state.step} is saved, from which {as_word('run.dir', folder.path)} goes on",)
            raise
        except Stopped as stopped:
            saved = checkpoints.finish()
            at = checkpoints.saved_step or 0
            display.say(f"{stopped} at step {state.step}; with {as_word('run.dir', folder.path)} it goes on from step {at}")
            folder.leave("signal" if saved else None)
            raise
        folder.leave("done")
        record.note_end("done")
        if settings.run.report and mesh.rank == 0:
            leave_report(folder.path, settings, record.wandb, display)
    how = "already complete: evaluated only;" if trained_before else "done:"
    display.say(f"{how} checkpoints, metrics.jsonl and the rest are in {folder.path}; weights {weights}")


def leave_before_the_first_step(mesh: Mesh, folder: RunFolder, display: Display, signum: signal.Signals) -> None:
    """A signal ends the run before there is anything to save."""
    mesh.peers.leave(failed=True)
    display.say(f"stopped by {signum.name} before the first step of this start")
    folder.leave("signal")


def new_state(settings: Settings, mesh: Mesh, images_per_epoch: int, display: Display) -> TrainingState:
    """This process's share of a run that has not begun."""
    table, data, device = settings.table(), settings.data, mesh.device
    native = load_kernels(settings.trainer.native, device, display.say)
    net = Net(table, mesh.crossing, native).to(device)
    net.initialise(settings.seed)
    copies = narrow_copies(net, settings.precision.kind, native, mesh.layout.replicas > 1 or settings.trainer.slices > 1)
    return TrainingState(
        net=net,
        optimizer=MomentumSGD(net, settings.optimizer, mesh.tower_group, net.towers_held, copies, native),
        schedule=Schedule(settings.schedule, settings.optimizer.lr),
        preprocess=Preprocess(data.size, table.input_size, data.mean, data.colour_divisor).to(device),
        errors=ErrorCount(mesh),
        images_per_epoch=images_per_epoch,
    )


def begin(
    settings: Settings,
    config: dict[str, Any],
    folder: RunFolder,
    images: Images,
    state: TrainingState,
    mesh: Mesh,
    process: Process,
    display: Display,
) -> tuple[SavedState | None, SavedState]:
    """Bring the state to where this start begins, a checkpoint or a new run. Returns what the checkpoint says, if it is one of
    this folder; and what those from here on say beside their numbers."""
    checkpoint = mesh.from_first(None if mesh.rank else choose_checkpoint(settings, folder.path, display.say))
    shapes, classes, class_ids = state.net.table.parameter_shapes(), list(images.classes), list(images.class_ids)
    origin = SavedState(shapes, config, classes, class_ids, len(images), images.fingerprint())
    if checkpoint is None:
        folder.take(anew=True)
        if settings.init_from:
            display.say(take_layers(settings.init_from, settings.init_layers, state.net, state.preprocess, mesh))
        left = partial(leave_out, state=state, settings=settings, folder=folder, mesh=mesh, display=display)
        statistics, bad_images = gather_statistics(settings, images, mesh, process.cores, display, left)
        state.preprocess.set_statistics(statistics)
        left(bad_images)
        return None, origin
    saved = SavedState.read(checkpoint)
    check_same_run(checkpoint, saved, settings, config)
    check_same_data(checkpoint, saved, images, settings.resume_allow)
    load_checkpoint(checkpoint, saved, mesh, state.net, state.preprocess, state.optimizer)
    own = checkpoint.parent.parent.resolve() == folder.path.resolve()
    folder.take(anew=not own)
    state.go_on_from(saved, have_other_images(saved, config, len(images)))
    state.stand_at_a_batch(settings.trainer.batch_size)
    display.say(f"resumed from {checkpoint}: step {state.step}, epoch {state.epoch}")
    differs = [f"{name}={now} (was {was})" for name, (was, now) in what_differs(saved.config, config).items()]
    if differs:
        display.say(f"not as the checkpoint was made: {', '.join(differs)}")
    return (saved if own else None), replace(origin, resumed_from=saved.resumed_from if own else str(checkpoint.resolve()))


def check_batch(settings: Settings, layout: Layout) -> None:
    """Raises UserError when the processes do not divide the batch evenly."""
    size = settings.trainer.batch_size
    if size % layout.processes:
        fits = size // layout.processes * layout.processes or layout.processes
        raise UserError(
            f"trainer.batch_size={size} cannot be shared by {layout.processes} processes: "
            f"take a multiple of {layout.processes}, such as {fits}"
        )


def run_path(settings: Settings) -> Path:
    """The run's folder as it was named, or a name for it."""
    if settings.run.dir:
        return Path(settings.run.dir)
    return name_run_folder(settings.table().name, job_name(), settings.run.overrides)


def prepare_start(config: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Check a composed configuration before any process is started; how many to start, and the configuration for them."""
    settings = check_settings(config)
    table = settings.table()
    wanted = settings.parallel.processes
    processes = default_processes(table.towers, settings.device) if isinstance(wanted, str) else wanted
    check_batch(settings, plan_layout(processes, table.towers))
    check_training_data(settings)
    device = pick_device(settings.device, processes - 1, settings.precision.kind)
    load_kernels(settings.trainer.native, device, warn=lambda _: None)
    if settings.init_from:
        choose_layers(settings.init_from, settings.init_layers, table)
    if settings.tracking.kind == "wandb":
        check_variables()
    folder = RunFolder(run_path(settings))
    with folder.held():
        check_resume(settings, config, folder.path)
        if read_outcome(folder.path) == "signal":
            folder.leave(None)
    config["run"]["dir"] = str(folder.path)
    return processes, config


def main() -> None:
    distributed_command("alexnet_dist.train", "train")


if __name__ == "__main__":
    main()
