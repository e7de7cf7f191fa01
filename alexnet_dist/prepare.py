"""Pack images for training: one folder of JPEG shards with an index, a manifest and the training set's statistics.

    python -m alexnet_dist.prepare source=ilsvrc2012 root=/data/archives output=/data/imagenet256
    python -m alexnet_dist.prepare source=imagefolder root=photographs output=packed size=keep
    python -m alexnet_dist.prepare verify=/data/imagenet256

Killed and started again it goes on, and ends with the same bytes. The settings are in conf/prepare.yaml.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from alexnet_dist.data.listing import refuse_among_images
from alexnet_dist.data.packed import SKIPPED, SPLITS
from alexnet_dist.data.statistics import Sums
from alexnet_dist.errors import UserError
from alexnet_dist.fields import FilePath, Positive, check, strict
from alexnet_dist.packing.output_folder import begin, locked, publish, refuse_foreign_folder, write_skipped
from alexnet_dist.packing.samples import Source
from alexnet_dist.packing.shards import ShardJob, ShardRecord, make_shard, read_record, record_path, start_worker
from alexnet_dist.packing.sources import Form, list_source, recognise
from alexnet_dist.packing.verify import verify_files
from alexnet_dist.tracking.display import Display

DEFAULT_SIZE = 256
SHUFFLE_SEED = 2012

Workers = Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]


@dataclass(frozen=True, config=strict)
class PrepareSettings:
    """What conf/prepare.yaml may say where a set is packed."""

    source: Literal["auto", Form]
    root: FilePath
    output: FilePath
    size: Annotated[int, Field(ge=8, le=4096)] | Literal["auto", "keep"]
    quality: Annotated[int, Field(ge=1, le=100)]
    max_skipped: Annotated[float, Field(ge=0, le=1)]
    workers: Workers
    samples_per_shard: Positive | Literal["auto"]
    val_labels: FilePath | None = None
    classes: FilePath | None = None
    verify: None = None

    @property
    def output_folder(self) -> Path:
        return Path(self.output).expanduser()

    @property
    def side(self) -> int | None:
        """Of the stored squares, in pixels; None where the originals are kept."""
        if self.size == "auto":
            return 32 if self.source == "cifar10" else DEFAULT_SIZE
        return None if self.size == "keep" else self.size


@dataclass(frozen=True, config=strict)
class VerifySettings:
    """What it may say where a packed set is checked."""

    verify: FilePath
    workers: Workers


def run(config: dict[str, Any]) -> None:
    """Pack a source, or verify a packed set. Raises UserError."""
    with Display(rank=0) as display:
        if config["verify"] is not None:
            verify(check(VerifySettings, {key: config[key] for key in ("verify", "workers")}), display)
        else:
            prepare(check(PrepareSettings, config), display)


def prepare(settings: PrepareSettings, display: Display) -> None:
    """Pack a source. Raises UserError; what is done by then is kept for the next start."""
    began = time.monotonic()
    output, root = settings.output_folder, Path(settings.root).expanduser()
    refuse_foreign_folder(output)
    refuse_among_images("output", str(output), root)
    form = recognise(root) if settings.source == "auto" else settings.source
    if form != settings.source:
        settings = replace(settings, source=form)
        display.say(f"{root} is taken for source={form}")
    with ExitStack() as stack:
        finished_samples, pool = stack.enter_context(worker_pool(settings.workers))

        display.say(f"listing {form} under {root}")
        source = list_source(form, root, settings.side is None, pool, settings.val_labels, settings.classes)
        display.say(f"{len(source.train)} training and {len(source.val)} validation files in {len(source.classes)} classes")

        stack.enter_context(locked(output))
        plan = begin(output, what_it_is_made_of(settings, source))
        if plan is None:
            display.say(f"{output} is complete already; verify={output} reads every byte of it")
            return

        jobs = list(plan_shards(settings, source))
        todo = [job for job in jobs if not record_path(output, job.split, job.number).exists()]
        total = sum(len(job.samples) for job in jobs)
        done = total - sum(len(job.samples) for job in todo)
        if done:
            display.say(f"going on after {done} files")
        packing = time.monotonic()

        def show() -> None:
            rate = finished_samples.value / (time.monotonic() - packing)
            display.show("packing", done + finished_samples.value, total, f"{rate:.0f} images/s")

        run_jobs(pool, todo, show)

        records, sums = read_records(output, jobs, Sums.zero(settings.side or DEFAULT_SIZE))
        check_skipped(settings, records, total, display)
        if sums.images == 0:
            write_skipped(output, records)
            raise UserError(f"no training image could be packed: see {output / SKIPPED}")
        publish(output, plan, source.classes, records, sums)
    size = sum(record.size for own in records.values() for record in own)
    display.say(f"{output} is complete: {size / 1e6:.1f} MB in {len(jobs)} shards, {time.monotonic() - began:.0f} s")


def verify(settings: VerifySettings, display: Display) -> None:
    """Check a packed set against its manifest; prints what is wrong and raises UserError if anything is."""
    root = Path(settings.verify).expanduser()
    with worker_pool(settings.workers) as (_, pool):
        findings = verify_files(root, pool)
    for finding in findings:
        print(finding, file=sys.stderr)
    if findings:
        raise UserError(
            f"{root} is not as it was packed ({len(findings)} findings above): copy it again, or prepare it into another folder"
        )
    display.say(f"{root} is whole")


def what_it_is_made_of(settings: PrepareSettings, source: Source) -> dict[str, Any]:
    """All that the set's bytes follow from; a started set goes on only with the same."""
    return {
        "source": settings.source + (" in the order of classes=" if settings.classes else ""),
        "source_sha256": source.fingerprint(),
        "options": {
            "size": "keep" if settings.side is None else settings.side,
            "quality": settings.quality,
            "samples_per_shard": [samples_per_shard(settings, len(samples)) for samples in (source.train, source.val)],
            "shuffle_seed": SHUFFLE_SEED,
        },
    }


def samples_per_shard(settings: PrepareSettings, samples: int) -> int:
    """128 shards keep all cores at work; 64 to 4096 samples keep shards worth a file and a killed run's loss small."""
    wanted = settings.samples_per_shard
    return min(max(-(-samples // 128), 64), 4096) if isinstance(wanted, str) else wanted


def plan_shards(settings: PrepareSettings, source: Source) -> Iterator[ShardJob]:
    """The training samples in one fixed random order, so that each shard mixes the classes (rows of a row group of a parquet file
    stay together); validation in its own."""
    blocks = source.blocks()
    # RandomState's streams are frozen by NumPy, Generator's are not.
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(blocks))
    shuffled = [sample for index in order for sample in blocks[index]]
    statistics_size = settings.side or DEFAULT_SIZE
    for split, samples, sums_size in (("train", shuffled, statistics_size), ("val", source.val, None)):
        step = samples_per_shard(settings, len(samples))
        for number, first in enumerate(range(0, len(samples), step)):
            yield ShardJob(
                settings.output_folder,
                split,
                number,
                first,
                samples[first : first + step],
                settings.side,
                settings.quality,
                sums_size,
            )


@contextmanager
def worker_pool(workers: int | str) -> Iterator[tuple[Any, ProcessPoolExecutor]]:
    """A pool of processes (`auto`: one for each core) and the shared count of samples that they have finished."""
    context = multiprocessing.get_context("spawn")
    progress, stop = context.Value("q", 0), context.Event()
    count = len(os.sched_getaffinity(0)) if isinstance(workers, str) else workers
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=start_worker, initargs=(progress, stop))
    heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the processes inherit it from their first moment on
    for _ in range(count):
        pool.submit(int)
    signal.signal(signal.SIGINT, heeded)
    try:
        yield progress, pool
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely because memory ran out: run the same command again with fewer workers="
        ) from None
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def run_jobs(pool: ProcessPoolExecutor, jobs: Sequence[ShardJob], refresh: Callable[[], None]) -> None:
    """Make all shards, calling `refresh` a few times a second; the first error ends it."""
    pending: set[Future[None]] = {pool.submit(make_shard, job) for job in jobs}
    while pending:
        finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
        refresh()


def read_records(output: Path, jobs: Sequence[ShardJob], sums: Sums) -> tuple[dict[str, list[ShardRecord]], Sums]:
    """The shards' records by split, in order, without their sums (a megabyte each), and all those added to `sums`."""
    records: dict[str, list[ShardRecord]] = {split: [] for split in SPLITS}
    for job in jobs:
        record = read_record(output, job.split, job.number)
        if record.sums is not None:
            sums.add(record.sums)
        records[job.split].append(replace(record, sums=None))
    return records, sums


def check_skipped(settings: PrepareSettings, records: dict[str, list[ShardRecord]], total: int, display: Display) -> None:
    """Say how many files were skipped; raises UserError where they are too many, with skipped.tsv written."""
    skipped = sum(len(record.skipped) for own in records.values() for record in own)
    table = settings.output_folder / SKIPPED
    display.say(f"{total - skipped} of {total} files packed, {skipped} skipped" + (f": see {table}" if skipped else ""))
    if skipped > settings.max_skipped * total:
        write_skipped(settings.output_folder, records)
        raise UserError(
            f"{skipped} of {total} files were skipped, more than max_skipped={settings.max_skipped:g} allows: "
            f"see {table}, then allow more with max_skipped=, or mend them and name another output folder"
        )


def main() -> None:
    # Imported here because the processes of the pool import this file too, and need no torch.
    from alexnet_dist.launching.commands import command

    command("prepare", run)


if __name__ == "__main__":
    main()
