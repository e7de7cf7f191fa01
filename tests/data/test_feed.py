import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from alexnet_dist.data.batch import LOOKAHEAD, Batch
from alexnet_dist.data.decode import Crops, decode
from alexnet_dist.data.feed import TrainFeed, ValidationFeed
from alexnet_dist.data.images import ImageFolder, open_folder
from alexnet_dist.data.sampling import epoch_order
from alexnet_dist.errors import UserError
from tests.data.jpegs import InMemory, encoded, make_folder, photo
from tests.distributed.processes import run_processes

CPU = torch.device("cpu")
TRAIN = {"seed": 3, "size": 40, "crop": 32, "mirror": True, "device": CPU}
STEPS = 8  # of 16 images each, over the 44 of an epoch: more than three epochs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"), {"train": (20, 24), "val": (11, 12)})


def fields(batch: Batch) -> list[Any]:
    return [batch.pixels, batch.labels, batch.y, batch.x, batch.mirror, batch.colour, torch.from_numpy(batch.samples)]


def same(one: Batch, other: Batch) -> bool:
    place = (one.epoch, one.index) == (other.epoch, other.index)
    return place and all(torch.equal(a, b) for a, b in zip(fields(one), fields(other), strict=True))


def feed(images: ImageFolder, **changes: Any) -> TrainFeed:
    alone = {"batch_size": 16, "replica": 0, "replicas": 1, "part": 0, "parts": 1, "threads": 2, "exchange": None}
    return TrainFeed(images, **{**TRAIN, **alone, **changes})


def take(images: ImageFolder, count: int = STEPS, **changes: Any) -> list[Batch]:
    batches = feed(images, **changes)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def test_batches_follow_the_plan(folder: Path) -> None:
    train, _ = open_folder(folder)
    batches = take(train)
    assert [(batch.epoch, batch.index) for batch in batches] == [(e, i) for e in range(4) for i in range(2)]
    for batch in batches:
        expected = epoch_order(3, batch.epoch, 44)[batch.index * 16 :][:16]
        np.testing.assert_array_equal(batch.samples, expected)
        np.testing.assert_array_equal(batch.labels.numpy(), train.labels[expected])
        assert batch.pixels.shape == (16, 3, 32, 32)
        assert batch.pixels.dtype == torch.uint8
        crops = Crops(batch.samples, torch.stack([batch.y, batch.x], dim=1).numpy())
        request = ((crops, None) for _ in range(1))
        ((pixels, _),) = decode(train, request, size=40, crop=32, batch_size=16, threads=1, device=CPU)
        assert torch.equal(batch.pixels, pixels.permute(0, 3, 1, 2))
    assert len({int(batch.y[0]) for batch in batches} | {int(batch.x[0]) for batch in batches}) > 2


def test_batches_do_not_depend_on_threads(folder: Path) -> None:
    train, _ = open_folder(folder)
    assert all(map(same, take(train, threads=1), take(train, threads=8)))


@pytest.mark.parametrize("start", [(0, 1), (1, 0), (2, 1), (0, 2)])
def test_feed_goes_on_from_anywhere(folder: Path, start: tuple[int, int]) -> None:
    train, _ = open_folder(folder)
    whole = take(train)
    resumed = take(train, STEPS - 2 * start[0] - start[1], start=start)
    assert all(map(same, whole[2 * start[0] + start[1] :], resumed))


def test_mirroring_can_be_off(folder: Path) -> None:
    train, _ = open_folder(folder)
    assert not any(batch.mirror.any() for batch in take(train, mirror=False))


def in_processes(folder: Path, replicas: int, share: bool) -> tuple[list[Batch], list[tuple[torch.Tensor, ...]]]:
    """What each process of a mesh takes: training batches, and between them a validation pass."""
    dist.init_process_group("gloo")
    rank, parts = dist.get_rank(), dist.get_world_size() // replicas
    replica, part = divmod(rank, parts)
    members = [list(range(r * parts, (r + 1) * parts)) for r in range(replicas)]
    group = dist.new_subgroups_by_enumeration(members)[0]

    def gather(part: torch.Tensor) -> Callable[[], torch.Tensor]:
        whole = part.new_empty(parts * len(part), *part.shape[1:])
        work = dist.all_gather(list(whole.chunk(parts)), part, group=group, async_op=True)
        return lambda: (work.wait(), whole)[1]

    exchange = gather if parts > 1 and share else None
    train, val = open_folder(folder)
    place = {"replica": replica, "replicas": replicas, "part": part, "parts": parts} if share else {
        "replica": replica, "replicas": replicas, "part": 0, "parts": 1
    }  # fmt: skip
    batches = feed(train, **place, exchange=exchange)
    taken = [next(batches) for _ in range(5)]
    passes = ValidationFeed(val, batch_size=6, **place, size=40, threads=1, device=CPU, exchange=exchange)  # type: ignore[arg-type]
    validated = list(passes)
    taken += [next(batches) for _ in range(STEPS - 5)]
    batches.close()
    dist.destroy_process_group()
    return [apart(batch) for batch in taken], [tuple(tensor.clone() for tensor in batch) for batch in validated]


def apart(batch: Batch) -> Batch:
    """With memory of its own for each field, as files have to have it."""
    return replace(batch, **{name: value.clone() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)})


@pytest.mark.parametrize(("processes", "replicas", "share"), [(2, 1, True), (2, 1, False), (4, 2, True), (4, 1, True)])
def test_batches_do_not_depend_on_processes(folder: Path, processes: int, replicas: int, share: bool) -> None:
    train, val = open_folder(folder)
    whole = take(train)
    results = run_processes(in_processes, processes, folder, replicas, share)
    rows = 16 // replicas
    for rank, (batches, validated) in enumerate(results):
        replica = rank // (processes // replicas)
        own = slice(replica * rows, (replica + 1) * rows)
        for expected, batch in zip(whole, batches, strict=True):
            assert all(torch.equal(a[own], b) for a, b in zip(fields(expected), fields(batch), strict=True))
        assert [pixels.shape for pixels, _, _ in validated] == [pixels.shape for pixels, _, _ in results[0][1]]
    leaders = [results[r * (processes // replicas)][1] for r in range(replicas)]
    check_coverage(leaders, val)


def check_coverage(replicas: list[list[tuple[torch.Tensor, ...]]], val: Any) -> None:
    samples = torch.cat([samples for batches in replicas for _, _, samples in batches])
    labels = torch.cat([labels for batches in replicas for _, labels, _ in batches])
    pixels = torch.cat([pixels for batches in replicas for pixels, _, _ in batches])
    real = samples >= 0
    assert sorted(samples[real].tolist()) == list(range(len(val)))
    assert (labels[~real] == -1).all()
    assert not pixels[~real].any()
    np.testing.assert_array_equal(labels[real].numpy(), val.labels[samples[real].numpy()])
    for row in torch.nonzero(real)[:, 0].tolist():
        request = ((Crops.whole(samples[row : row + 1].numpy()), None) for _ in range(1))
        ((alone, _),) = decode(val, request, size=40, crop=40, batch_size=1, threads=1, device=CPU)
        assert torch.equal(pixels[row], alone[0].permute(2, 0, 1))


@pytest.mark.parametrize(
    ("images", "batch_size", "replicas"), [(23, 8, 1), (1, 8, 1), (8, 8, 2), (9, 4, 4), (2, 64, 3), (7, 1, 1)]
)
def test_every_validation_image_counts_once(folder: Path, images: int, batch_size: int, replicas: int) -> None:
    _, val = open_folder(folder)
    files = InMemory([val.read(i).tobytes() for i in range(images)], val.labels[:images].tolist())
    taken = []
    for replica in range(replicas):
        passes = ValidationFeed(
            files, batch_size=batch_size, replica=replica, replicas=replicas, part=0, parts=1, size=40, threads=1, device=CPU,
            exchange=None,
        )  # fmt: skip
        taken.append(list(passes))
        assert len(taken[-1]) == len(passes)
    assert len({tuple(pixels.shape for pixels, _, _ in batches) for batches in taken}) == 1
    check_coverage(taken, files)


def test_validation_can_be_repeated_and_left_half_way(folder: Path) -> None:
    _, val = open_folder(folder)
    before = threading.active_count()
    passes = ValidationFeed(
        val, batch_size=4, replica=0, replicas=1, part=0, parts=1, size=40, threads=1, device=CPU, exchange=None
    )
    first = [samples.tolist() for _, _, samples in passes]
    for _ in passes:
        break
    assert [samples.tolist() for _, _, samples in passes] == first
    assert threading.active_count() == before


def test_close_leaves_no_thread(folder: Path) -> None:
    before = threading.active_count()
    batches = feed(open_folder(folder)[0])
    next(batches)
    batches.close()
    batches.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        next(batches)


def test_exchanges_follow_from_what_was_taken(folder: Path) -> None:
    """So the processes of a replica, which take the same batches, begin the same messages, each in its main thread."""
    exchanged = []

    def exchange(part: torch.Tensor) -> Callable[[], torch.Tensor]:
        exchanged.append((len(part), threading.current_thread()))
        return lambda: torch.cat([part, part])

    for taken in (0, 1, 3):
        exchanged.clear()
        batches = feed(open_folder(folder)[0], parts=2, exchange=exchange)
        for _ in range(taken):
            next(batches)
        if taken:
            time.sleep(0.2)
        batches.close()
        assert exchanged == [(8, threading.main_thread())] * (taken + LOOKAHEAD if taken else 0)


def test_undecodable_file_is_named(folder: Path) -> None:
    files = InMemory([encoded(photo(seed, 50, 50)) for seed in range(31)] + [encoded(photo(0, 50, 50))[:500]])
    batches = feed(files)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^image-31 cannot be decoded"):
        list(islice(batches, 3))
    batches.close()
    passes = ValidationFeed(
        files, batch_size=8, replica=0, replicas=1, part=0, parts=1, size=40, threads=1, device=CPU, exchange=None
    )
    with pytest.raises(UserError, match=r"^image-31 cannot be decoded"):
        list(passes)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    train, _ = open_folder(make_folder(tmp_path, {"train": (20,)}))
    Path(train.name(3)).unlink()
    with pytest.raises(UserError, match=r"0003\.JPEG cannot be read"):
        take(train, batch_size=16)


@pytest.mark.parametrize(
    ("changes", "message"), [({"batch_size": 45}, "44 training images"), ({"batch_size": 9, "replicas": 2}, "multiple of 2")]
)
def test_batch_that_cannot_be_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        feed(open_folder(folder)[0], **changes)
