"""Pack images for training: one folder of JPEG shards with an index, a manifest and the training set's statistics.

    python -m alexnet_dist.prepare source=ilsvrc2012 root=/data/archives output=/data/imagenet256
    python -m alexnet_dist.prepare source=imagefolder root=photographs output=packed size=keep
    python -m alexnet_dist.prepare verify=/data/imagenet256

Killed and started again it goes on, and ends with the same bytes. The options are in conf/prepare.yaml:
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_dist.data.packed import SKIPPED, SPLITS
from alexnet_dist.data.sums import Sums
from alexnet_dist.errors import UserError
from alexnet_dist.packing.output_folder import begin, locked, publish, refuse_foreign_folder, write_skipped
from alexnet_dist.packing.shards import ShardJob, ShardRecord, make_shard, read_record, record_path, start_worker
from alexnet_dist.packing.sources import SOURCES, Source, list_source
from alexnet_dist.packing.verify import verify_files

DEFAULT_SIZE = 256
SHUFFLE_SEED = 2012
KEYS = {"source", "root", "output", "size", "quality", "max_skipped", "workers", "samples_per_shard", "verify"}


@dataclass(frozen=True)
class Options:
    """conf/prepare.yaml, checked. `size` is None where the originals are kept, `samples_per_shard` None for 'auto'."""

    source: str
    root: Path
    output: Path
    size: int | None
    quality: int
    max_skipped: float
    workers: int
    samples_per_shard: int | None


def main() -> None:
    """The command line: Hydra overrides, or --help."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{__doc__}\n{resources.files('alexnet_dist.conf').joinpath('prepare.yaml').read_text()}")
        return
    # Imported here because the processes of the pool import this file too, and need no torch.
    from alexnet_dist.launching.commands import compose, errors_as_sentences

    with errors_as_sentences():
        config = compose("prepare", sys.argv[1:])
        for key in ("root", "output", "verify"):
            if config.get(key) == "":
                raise UserError(f"{key} is empty, as a variable that is not set would leave it: name a path, or leave it out")
        if config.get("verify") is not None:
            verify(Path(str(config["verify"])).expanduser(), check_workers(config))
        else:
            prepare(check_options(config))


def prepare(options: Options) -> None:
    """Pack a source into `options.output`. Raises UserError; what is done by then is kept for the next start."""
    began = time.monotonic()
    output = options.output
    refuse_foreign_folder(output)
    with ExitStack() as stack:
        finished_samples, pool = stack.enter_context(worker_pool(options.workers))

        say(f"listing {options.source} under {options.root}")
        source = list_source(options.source, options.root, options.size is None, pool)
        say(f"{len(source.train)} training and {len(source.val)} validation files in {len(source.classes)} classes")

        stack.enter_context(locked(output))
        plan = begin(output, what_it_is_made_of(options, source))
        if plan is None:
            say(f"{output} is complete already")
            return

        jobs = list(plan_shards(options, source))
        todo = [job for job in jobs if not record_path(output, job.split, job.number).exists()]
        total = sum(len(job.samples) for job in jobs)
        done = total - sum(len(job.samples) for job in todo)
        if done:
            say(f"going on after {done} files")
        with progress_display(finished_samples, done, total) as refresh:
            run_jobs(pool, todo, refresh)

        records, sums = read_records(output, jobs, Sums.zero(options.size or DEFAULT_SIZE))
        check_skipped(options, records, total)
        if sums.images == 0:
            raise UserError(f"no training image could be packed: see {output / SKIPPED}")
        publish(output, plan, source.classes, records, sums)
    size = sum(record.size for own in records.values() for record in own)
    say(f"{output} is complete: {size / 1e6:.1f} MB in {len(jobs)} shards, {time.monotonic() - began:.0f} s")


def verify(root: Path, workers: int) -> None:
    """Check a packed set against its manifest; prints what is wrong and raises UserError if anything is."""
    with worker_pool(workers) as (_, pool):
        findings = verify_files(root, pool)
    for finding in findings:
        print(finding, file=sys.stderr)
    if findings:
        raise UserError(f"{root} is not as it was packed ({len(findings)} findings above): copy or prepare it again")
    say(f"{root} is whole")


# -------------------------------------------------------------------------------------------------------- the options


def check_options(config: dict[str, Any]) -> Options:
    """The composed configuration as Options. Raises UserError that names the key."""
    if unknown := set(config) - KEYS:
        raise UserError(f"{min(unknown)} is no option: take of {', '.join(sorted(KEYS))}")
    for key in ("source", "root", "output"):
        if config[key] is None:
            raise UserError(f"{key}= is missing: see python -m alexnet_dist.prepare --help")
    source = config["source"]
    if source not in SOURCES:
        raise UserError(f"source={source} is unknown: take one of {', '.join(SOURCES)}")
    size = config["size"]
    if size == "auto":
        size = 32 if source == "cifar10" else DEFAULT_SIZE
    max_skipped = config["max_skipped"]
    if isinstance(max_skipped, bool) or not isinstance(max_skipped, int | float) or not 0 <= max_skipped <= 1:
        raise UserError(f"max_skipped={max_skipped} is no fraction: give a number from 0 to 1")
    per_shard = config["samples_per_shard"]
    return Options(
        source=source,
        root=Path(str(config["root"])).expanduser(),
        output=Path(str(config["output"])).expanduser(),
        size=None if size == "keep" else _whole_number("size", size, 8, 4096, "keep"),
        quality=_whole_number("quality", config["quality"], 1, 100),
        max_skipped=float(max_skipped),
        workers=check_workers(config),
        samples_per_shard=None if per_shard == "auto" else _whole_number("samples_per_shard", per_shard, 1, 100_000, "auto"),
    )


def check_workers(config: dict[str, Any]) -> int:
    workers = config["workers"]
    return len(os.sched_getaffinity(0)) if workers == "auto" else _whole_number("workers", workers, 1, 1024, "auto")


def _whole_number(key: str, value: Any, least: int, most: int, word: str | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(f"{key}={value} cannot be: give a whole number from {least} to {most}" + (f", or {word}" if word else ""))
    return value


# ------------------------------------------------------------------------------------------------------------ the shards


def what_it_is_made_of(options: Options, source: Source) -> dict[str, Any]:
    """All that the set's bytes follow from; a started set goes on only with the same."""
    return {
        "source": options.source,
        "source_sha256": source.fingerprint(),
        "options": {
            "size": "keep" if options.size is None else options.size,
            "quality": options.quality,
            "samples_per_shard": [samples_per_shard(options, len(samples)) for samples in (source.train, source.val)],
            "shuffle_seed": SHUFFLE_SEED,
        },
    }


def samples_per_shard(options: Options, samples: int) -> int:
    """128 shards keep all cores at work; 64 to 4096 samples keep shards worth a file and a killed run's loss small."""
    return options.samples_per_shard or min(max(-(-samples // 128), 64), 4096)


def plan_shards(options: Options, source: Source) -> Iterator[ShardJob]:
    """The training samples in one fixed random order, so that each shard mixes the classes; validation in its own."""
    # RandomState's streams are frozen by NumPy, Generator's are not.
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(source.train))
    shuffled = [source.train[index] for index in order]
    statistics_size = options.size or DEFAULT_SIZE
    for split, samples, sums_size in (("train", shuffled, statistics_size), ("val", source.val, None)):
        step = samples_per_shard(options, len(samples))
        for number, first in enumerate(range(0, len(samples), step)):
            yield ShardJob(
                options.output,
                split,
                number,
                first,
                samples[first : first + step],
                options.size,
                options.quality,
                sums_size,
            )


@contextmanager
def worker_pool(workers: int) -> Iterator[tuple[Any, ProcessPoolExecutor]]:
    """A pool of processes and the shared count of samples that they have finished."""
    context = multiprocessing.get_context("spawn")
    progress, stop = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(progress, stop))
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


def check_skipped(options: Options, records: dict[str, list[ShardRecord]], total: int) -> None:
    """Say how many files were skipped; raises UserError where they are too many, with skipped.tsv written."""
    skipped = sum(len(record.skipped) for own in records.values() for record in own)
    table = options.output / SKIPPED
    say(f"{total - skipped} of {total} files packed, {skipped} skipped" + (f": see {table}" if skipped else ""))
    if skipped > options.max_skipped * total:
        write_skipped(options.output, records)
        raise UserError(
            f"{skipped} of {total} files were skipped, more than max_skipped={options.max_skipped:g} allows: "
            f"see {table}, then allow more with max_skipped=, or mend them and name another output folder"
        )


# ------------------------------------------------------------------------------------------------------ what a person sees


def say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def progress_display(counter: Any, done: int, total: int) -> Iterator[Callable[[], None]]:
    """A function to call now and then: a bar on a terminal, elsewhere a line for every tenth of the work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    began = time.monotonic()
    if Console().is_terminal:
        columns = (TextColumn("packing"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task("", total=total, completed=done, rate="")

            def refresh_bar() -> None:
                rate = counter.value / max(time.monotonic() - began, 1e-9)
                bar.update(task, completed=done + counter.value, rate=f"{rate:.0f} images/s")

            yield refresh_bar
        return
    tenth = done * 10 // max(total, 1)

    def print_line() -> None:
        nonlocal tenth
        now = (done + counter.value) * 10 // max(total, 1)
        if now > tenth:
            tenth = now
            rate = counter.value / max(time.monotonic() - began, 1e-9)
            say(f"packed {done + counter.value} of {total} files, {rate:.0f} images/s")

    yield print_line


if __name__ == "__main__":
    main()
