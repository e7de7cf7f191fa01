"""Stages that decode images: what needs DALI."""

import os
import signal
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from alexnet_dist.data import quickstart
from tests.commands import read_metrics, read_tensors, run_command, train
from tests.reliability import kills
from tests.reliability.started import PLAIN, started


def _drawn(folder: Path) -> Path:
    images = folder / "images"
    quickstart.make(images, lambda done, total: None)
    return images


def _device(dry: bool) -> str:
    return "cpu" if dry else "cuda"


def _towers(dry: bool) -> str:
    """A GPU for each tower, or one for both; a CPU has a process for each."""
    return f"parallel.processes={2 if dry else min(2, torch.cuda.device_count())}"


def pixels(note: Any, dry: bool) -> None:
    """The GPU decoder's pixels against the CPU's, file by file over odd ones: the largest and the mean difference of grey levels.
    Dry: the CPU's against themselves."""
    from alexnet_dist.data.feed import ValidationFeed  # here: without DALI the other stages can be taken
    from tests.data.jpegs import InMemory, photo
    from tests.packing.miniature import odd_but_good

    odd = odd_but_good(photo(3, 64, 64))
    files: Any = InMemory([data for data, _ in odd.values()])

    def decoded(device: torch.device) -> torch.Tensor:
        feed = ValidationFeed(
            files, batch_size=8, replica=0, replicas=1, part=0, parts=1, size=48, threads=2, device=device, exchange=None
        )
        return torch.cat([pixels.cpu() for pixels, _, _ in feed])[: len(odd)].int()

    cpu, there = decoded(torch.device("cpu")), decoded(torch.device("cpu") if dry else torch.device("cuda", 0))
    for name, difference in zip(odd, (cpu - there).abs(), strict=True):
        note(file=name, most=int(difference.max()), mean=difference.float().mean().item())


def feed(note: Any, dry: bool) -> None:
    """Images a second of the feed and its rivals (`bench data`), then of the feed alone with shares of the hardware decoder from
    0 to 1: what data.hardware_decoder should be. Dry: the feed alone, for a moment on the CPU."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        images = _drawn(folder)
        if not dry:
            done = run_command("bench", "data", f"root={images}", "device=cuda", "rounds=2", "seconds=3", cwd=folder)
            note(bench_data=done.stdout[-3000:], status=done.returncode)
        for share in (0.0,) if dry else (0.0, 0.25, 0.5, 0.65, 0.75, 0.9, 1.0):
            note(hardware_decoder=share, images_per_second=_rate(images, share, 5 if dry else 60, dry))


def _rate(images: Path, share: float, batches: int, dry: bool) -> float:
    from alexnet_dist.data.feed import TrainFeed
    from alexnet_dist.data.images import open_folder

    device = torch.device("cpu") if dry else torch.device("cuda", 0)
    threads = 2 if dry else len(os.sched_getaffinity(0))
    feed = TrainFeed(
        open_folder(images)[0], seed=0, batch_size=128, replica=0, replicas=1, part=0, parts=1, size=64, crop=56, mirror=True,
        threads=threads, device=device, exchange=None, decoder_options={} if dry else {"hw_decoder_load": share},
    )  # fmt: skip
    with closing(feed) as training:
        for _ in range(3):
            next(training)
        begun = time.perf_counter()
        for _ in range(batches):
            next(training)
        return 128 * batches / (time.perf_counter() - begun)


def run(note: Any, dry: bool) -> None:
    """A real run of 500 steps, stopped by SIGTERM half way and resumed, against one that was not stopped: the same parameters to
    the bit (trainer.deterministic)? Dry: 12 steps on the CPU."""
    steps = 12 if dry else 500
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        images = _drawn(folder) if not dry else kills.take_few(_drawn(folder), folder / "few")
        words = [
            *(f"device={_device(dry)}", _towers(dry), f"data.root={images}", f"trainer.max_steps={steps}", "trainer.epochs=1000"),
            *(f"trainer.batch_size={32 if dry else 128}", "trainer.log_every=5", f"checkpoint.every={steps // 4}"),
            *("evaluation.views=1", "trainer.deterministic=true"),
        ]
        undisturbed = train(*words, "run.dir=whole", cwd=folder)
        note(undisturbed=undisturbed.returncode, says=undisturbed.stdout[-500:])
        with started(PLAIN, *words, cwd=folder) as stopped:
            stopped.wait_for_step(steps // 2)
            stopped.process.send_signal(signal.SIGTERM)
            note(stopped=stopped.end())
        resumed = train(*words, "run.dir=run", cwd=folder)
        note(resumed=resumed.returncode, says=resumed.stdout[-500:])
        one, other = read_tensors(folder / "whole"), read_tensors(folder / "run")
        note(same_bits=all(torch.equal(one[name], other[name]) for name in one))
        rates = [line["images_per_second"] for line in read_metrics(folder / "whole") if line["kind"] == "train"]
        note(images_per_second=sorted(rates)[len(rates) // 2])


def kill(note: Any, dry: bool) -> None:
    """A process killed in the middle of the steps: the run is started again by itself and goes on. Dry: on the CPU."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        images = kills.take_few(_drawn(folder), folder / "few")
        words = (*kills.RUN, f"device={_device(dry)}", _towers(dry), f"data.root={images}")
        with started(PLAIN, *words, f"trainer.max_steps={12 if dry else 60}", cwd=folder) as hit:
            hit.wait_for_step(5 if dry else 25)
            hit.ranks()[-1].kill()
            note(status=hit.end(), says=hit.said()[-1500:])
