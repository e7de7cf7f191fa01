"""The training run, from top to bottom.

python -m alexnet_dist.train                                       two processes of its own
torchrun --standalone --nproc-per-node 2 -m alexnet_dist.train     the same under a launcher
python -m alexnet_dist.train -m optimizer.lr=0.005,0.01            a sweep: processes and a run folder for each job
"""

import os
import signal
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import RunFailed, Stopped, UserError
from alexnet_dist.figures.closing import leave_report
from alexnet_dist.launching.commands import distributed_command, sweep_folder, swept_overrides
from alexnet_dist.model.dropout import DropoutKey
from alexnet_dist.model.net import Net
from alexnet_dist.model.share import Share
from alexnet_dist.parallel.mesh import Layout, check_place, join_mesh, pick_device, plan_layout, share_cores
from alexnet_dist.results.validation import validate
from alexnet_dist.settings import Settings, check_settings
from alexnet_dist.tracking import run_folder
from alexnet_dist.tracking.display import Display
from alexnet_dist.tracking.record import Record
from alexnet_dist.training.activity import Activity
from alexnet_dist.training.bad_numbers import LossCheck, all_finite, where_it_began
from alexnet_dist.training.checkpoint import check_resume, choose_checkpoint, load_checkpoint, read_state
from alexnet_dist.training.error_count import ErrorCount
from alexnet_dist.training.initial import choose_layers, take_layers
from alexnet_dist.training.inputs import check_same_data, gather_statistics, open_images, training_feed, validation_feed
from alexnet_dist.training.meter import Meter
from alexnet_dist.training.saving import Checkpoints
from alexnet_dist.training.sizes import layer_sizes
from alexnet_dist.training.state import TrainingState
from alexnet_dist.training.step import WIRES, keep_freed_memory, load_kernels, loss_of, narrow_copies, set_precision, set_threads
from alexnet_dist.training.stopping import Stopping
from alexnet_dist.training.update import Schedule, build_optimizer, set_learning_rate


def run(config: dict[str, Any]) -> None:
    """Train, as one process of the mesh that RANK and WORLD_SIZE name."""
    settings = check_settings(config)
    table, trainer = settings.table(), settings.trainer
    device = pick_device(settings.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = share_cores(local_processes)
    set_threads(settings.parallel.threads, max(local_processes, table.towers))
    autocast = set_precision(settings.precision.kind, device)
    if device.type == "cpu":
        keep_freed_memory()

    with ExitStack() as at_end:
        # ------------------------------------------------------------------------------ the mesh, and where the run is kept
        parallel = settings.parallel
        mesh = at_end.enter_context(join_mesh(table.towers, device, parallel.timeout, WIRES[parallel.wire], parallel.overlap))
        check_batch(settings, mesh.layout)
        check_place(mesh.layout, mesh.rank)
        run_dir = Path(mesh.from_first(settings.run.dir or str(Path("runs") / run_folder.new_run_name(table.name))))
        if mesh.rank == 0:
            at_end.enter_context(run_folder.held(run_dir))
        mesh.peers.recordings = run_dir / "flight-recorder"
        display = at_end.enter_context(Display(mesh.rank))

        def leave_before_the_first_step(signum: signal.Signals) -> None:
            mesh.peers.leave(failed=True)
            display.say(f"stopped by {signum.name} before the first step of this start")
            if mesh.rank == 0:
                run_folder.leave_word(run_dir, "signal")

        stopping = at_end.enter_context(Stopping(mesh.host_group, leave_before_the_first_step))
        display.say(
            f"{table.name}: {table.towers} towers in {mesh.layout.shares} processes, replicas: {mesh.layout.replicas}, "
            f"{device.type}, {settings.precision.kind}; run folder {run_dir}"
        )

        # ------------------------------------------------------------------------------ the data
        train_images, val_images = open_images(settings, mesh, display)

        # ------------------------------------------------------------------------------ the net
        native = load_kernels(trainer.native, device, display.say)
        net = Net(table, Share(mesh.share, mesh.layout.shares), mesh.crossing, native).to(device)
        net.initialise(settings.seed)
        state = TrainingState(
            net=net,
            optimizer=build_optimizer(
                net, settings.optimizer, mesh.tower_group, narrow_copies(net, settings.precision.kind, mesh, native), native
            ),
            schedule=Schedule(settings.schedule, settings.optimizer.lr),
            preprocess=Preprocess(settings.data.size, table.input_size, settings.data.colour).to(device),
            errors=ErrorCount(mesh),
        )

        # ------------------------------------------------------------------------------ anew, or from where it stopped
        checkpoint = mesh.from_first(choose_checkpoint(settings.resume, run_dir, display.say) if mesh.rank == 0 else None)
        if mesh.rank == 0:
            run_folder.leave_word(run_dir, None)
        saved = read_state(checkpoint) if checkpoint else None
        if checkpoint and saved:
            check_same_data(checkpoint, saved, train_images)
            load_checkpoint(checkpoint, saved, mesh, net, state.preprocess, state.optimizer)
            state.load_numbers(saved)
            display.say(f"resumed from {checkpoint}: step {state.step}, epoch {state.epoch}")
        else:
            if settings.init_from:
                display.say(take_layers(settings.init_from, settings.init_layers, net, state.preprocess, mesh))
            state.preprocess.set_statistics(gather_statistics(settings, train_images, mesh, threads, display))
        record = at_end.enter_context(Record(run_dir, settings.tracking, config, display))
        if mesh.rank == 0:
            record.open(saved if checkpoint and checkpoint.parent.parent == run_dir else None, device, state.step)
        origin = {
            "resumed_from": checkpoint and str(checkpoint),
            "config": config,
            "classes": train_images.classes,
            "class_ids": train_images.class_ids,
            "training_images": len(train_images),
        }

        start = (state.epoch, state.images // trainer.batch_size)
        feed = at_end.enter_context(training_feed(settings, train_images, mesh, threads, start))
        val_feed = validation_feed(settings, val_images, mesh, threads)
        network: nn.Module = net
        if mesh.layout.replicas > 1:
            network = DistributedDataParallel(net, process_group=mesh.replica_group, gradient_as_bucket_view=True)

        def evaluate(views: int) -> dict[str, Any]:
            views_of = state.preprocess.views(views)
            figures = validate(net, val_feed, views_of, mesh, autocast, display, stopping.check)
            figures["layers"] = layer_sizes(net, state.optimizer, mesh)
            return {"kind": "val", "step": state.step, "epoch": state.epochs_done(len(train_images)), **figures}

        checkpoints = at_end.enter_context(Checkpoints(run_dir, settings.checkpoint, mesh, display, state))

        def save(best: bool = False) -> None:
            extra = {"epochs_done": state.epochs_done(len(train_images)), **origin, **record.state()}
            checkpoints.save(state, extra, best)

        def leave_out_or_stop(images: torch.Tensor, key: DropoutKey) -> None:
            step = state.step + 1
            if trainer.on_nan == "skip" and all_finite(net, mesh):
                state.skipped += 1
                display.say(f"warning: the loss is not finite at step {step}; its update is left out ({state.skipped} so far)")
                return
            began = where_it_began(net, images, key, mesh, autocast)
            checkpoints.wait()
            kept = f"keeps the checkpoint of step {checkpoints.saved_step}" if checkpoints.saved_step else "has no checkpoint yet"
            raise RunFailed(f"the loss is not finite at step {step}: activations first went bad in {began}; {run_dir} {kept}")

        # ------------------------------------------------------------------------------ the loop
        total_steps = min(trainer.epochs * feed.batches_per_epoch, trainer.max_steps or sys.maxsize)
        stop_error = trainer.stop_at_training_error or -1.0
        if state.training_error <= stop_error:
            total_steps = state.step
        meter = Meter(mesh, trainer.batch_size, table.towers)
        activity = Activity(net, mesh) if settings.tracking.activity else None
        try:
            while True:
                # A step boundary: the ranks agree whether to go on, and what is due is done.
                mesh.peers.progressed(state.step)
                due = stopping.check(checkpoints.time_due()) or checkpoints.step_due(state.step) or state.step == total_steps
                validated = best = False
                if state.validation_due(trainer.validate_every):
                    with meter.pause():
                        figures = evaluate(views=1)
                    record.validation(figures)
                    validated, best = True, state.note_validation(figures["top1_error"])
                if validated or (due and state.step != checkpoints.saved_step):
                    with meter.pause():
                        save(best)
                if state.step >= total_steps:
                    break

                batch = next(feed)
                set_learning_rate(state.optimizer, state.schedule.learning_rate(state.epochs_done(len(train_images))))
                images = state.preprocess.of_training(batch)
                key = DropoutKey(settings.seed, state.step, first_row=mesh.replica * len(images))
                logged = (state.step + 1) % trainer.log_every == 0
                with activity.watching() if activity and logged else nullcontext():
                    loss, wrong = loss_of(network, images, batch.labels, key, mesh, autocast, native)
                    check = LossCheck(loss, mesh)
                    loss.backward()
                if check.passed():
                    state.optimizer.step()
                else:
                    leave_out_or_stop(images, key)
                state.optimizer.zero_grad()
                state.advance(trainer.batch_size, len(train_images))
                state.errors.add(wrong, trainer.batch_size)
                meter.step()

                if logged:
                    now = {"step": state.step, "epoch": state.epochs_done(len(train_images))}
                    lr = state.optimizer.param_groups[0]["lr"]
                    state.training_error = state.errors.read()
                    figures = {"kind": "train", **now, "lr": lr, **meter.read(loss), "top1_error": state.training_error}
                    figures["skipped_updates"] = state.skipped
                    record.training(figures, total_steps)
                    if activity:
                        record.activity({"kind": "activity", **now, "layers": activity.read()})
                    if state.training_error <= stop_error:
                        total_steps = state.step
                        display.say(f"training error {state.training_error:.2%} after epoch {now['epoch']:.2f}: it ends here")

            # -------------------------------------------------------------------------- the closing evaluation
            record.validation(evaluate(settings.evaluation.views))
            checkpoints.wait()
        except Stopped as stopped:
            checkpoints.wait()
            if state.step != checkpoints.saved_step:
                save()
                checkpoints.wait()
            display.say(f"{stopped} at step {state.step}; with run.dir={run_dir} it goes on from step {checkpoints.saved_step}")
            if mesh.rank == 0:
                run_folder.leave_word(run_dir, "signal")
            raise
        if mesh.rank == 0:
            run_folder.leave_word(run_dir, "done")
            record.note_end("done")
            if settings.run.report:
                leave_report(run_dir, settings, record.wandb, display)
        display.say(f"done: checkpoints, metrics.jsonl and the rest are in {run_dir}")


def check_batch(settings: Settings, layout: Layout) -> None:
    """Raises UserError when the processes do not divide the batch evenly."""
    size = settings.trainer.batch_size
    if size % layout.processes:
        fits = size // layout.processes * layout.processes or layout.processes
        raise UserError(
            f"trainer.batch_size={size} cannot be shared by {layout.processes} processes: "
            f"take a multiple of {layout.processes}, such as {fits}"
        )


def plan(config: dict[str, Any], job: int | None) -> tuple[int, dict[str, Any]]:
    """Check a composed configuration before any process is started; how many to start, and the configuration for them."""
    settings = check_settings(config)
    table = settings.table()
    gpus = torch.cuda.device_count() if settings.device != "cpu" else 0
    wanted = settings.parallel.processes
    fitting = [count for count in range(1, table.towers + 1) if table.towers % count == 0 and count <= (gpus or table.towers)]
    processes = fitting[-1] if isinstance(wanted, str) else wanted
    check_batch(settings, plan_layout(processes, table.towers))
    load_kernels(settings.trainer.native, pick_device(settings.device, processes - 1), warn=lambda _: None)
    if settings.data.root is not None and not Path(settings.data.root).is_dir():
        raise UserError(f"data.root={settings.data.root} is not a folder: name the one that holds train/ and val/")
    if job is None:
        run_dir = Path(settings.run.dir or Path("runs") / run_folder.new_run_name(table.name))
    else:
        sweep = Path(settings.run.dir) if settings.run.dir else sweep_folder()
        run_dir = sweep / str(job)
        if settings.tracking.kind == "wandb":
            swept = swept_overrides(settings.run.overrides)
            config["tracking"]["group"] = settings.tracking.group or sweep.name
            config["tracking"]["name"] = settings.tracking.name or " ".join([str(job), *swept])[:100]
    if settings.init_from:
        choose_layers(settings.init_from, settings.init_layers, table)
    with run_folder.held(run_dir):
        check_resume(settings.resume, run_dir)
        run_folder.leave_word(run_dir, None)
    config["run"]["dir"] = str(run_dir)
    return processes, config


def main() -> None:
    distributed_command("alexnet_dist.train", "train", plan)


if __name__ == "__main__":
    main()
