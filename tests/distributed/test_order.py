"""One thread issues all messages, and in one order: NCCL hangs where two ranks begin those of two groups in different orders."""

import threading
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d

from alexnet_dist.launching.commands import compose
from tests.distributed.processes import run_processes

COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "barrier", "gather", "scatter")


class Issued(NamedTuple):
    """Messages as a rank began them: over which group and its ranks; what: a collective's name, or the (from, to) of a batch."""

    group: str
    ranks: frozenset[int]
    what: str | frozenset[tuple[int, int]]
    thread: str


def _record(issued: list[Issued]) -> None:
    """From now on note what this process begins."""
    within = threading.local()

    def note(group: dist.ProcessGroup | None, what: str | frozenset[tuple[int, int]]) -> None:
        group = group or dist.group.WORLD
        assert group is not None
        ranks = frozenset(dist.get_process_group_ranks(group))
        issued.append(Issued(group.group_name, ranks, what, threading.current_thread().name))

    def wrapped(name: str) -> Any:
        call = getattr(c10d, name)

        def collective(*arguments: Any, **options: Any) -> Any:
            if not getattr(within, "one", False):  # those of objects are made of others
                groups = [each for each in (*arguments, *options.values()) if isinstance(each, dist.ProcessGroup)]
                note(groups[0] if groups else None, name)
            within.one = True
            try:
                return call(*arguments, **options)
            finally:
                within.one = False

        return collective

    def batch(operations: list[dist.P2POp]) -> list[dist.Work]:
        own = dist.get_rank()
        sent = {(own, op.peer) if op.op is c10d.isend else (op.peer, own) for op in operations}
        note(operations[0].group, frozenset(sent))
        return issue(operations)

    issue = c10d.batch_isend_irecv
    patched = {name: wrapped(name) for name in COLLECTIVES} | {"batch_isend_irecv": batch}
    for module in (c10d, dist):
        for name, function in patched.items():
            setattr(module, name, function)


def _training(words: list[str]) -> list[Issued]:
    issued: list[Issued] = []
    _record(issued)
    from alexnet_dist import train

    train.run(compose("train", words))
    return issued


def agree(one: list[Issued], ours: int, other: list[Issued], theirs: int) -> bool:
    """Whether two ranks begin what they have in common in the same order."""

    def common(issued: list[Issued]) -> list[tuple[str, object]]:
        told = []
        for group, ranks, what, _ in issued:
            if not isinstance(what, str):
                what = frozenset(pair for pair in what if set(pair) == {ours, theirs})
            if {ours, theirs} <= ranks and what:
                told.append((group, what))
        return told

    return common(one) == common(other)


@pytest.mark.parametrize("processes", [2, 4])
def test_one_thread_begins_all_messages_of_a_run_and_in_the_same_order_on_every_rank(
    processes: int, few_images: Path, tmp_path: Path
) -> None:
    words = [
        "device=cpu",
        *(f"data.root={few_images}", f"run.dir={tmp_path}/run", "run.report=false", "tracking=none", "data.size=64"),
        *("trainer.batch_size=64", "trainer.max_steps=6", "trainer.log_every=2", "checkpoint.every=3", "evaluation.views=1"),
    ]
    issued = run_processes(_training, processes, words)
    for rank, own in enumerate(issued):
        # Checkpoints have a thread and a group of their own, over gloo, and none of the GPU's messages.
        threads = {each.thread for each in own if not each.thread.startswith("checkpoint")}
        assert threads == {"MainThread"}, f"rank {rank}: {sorted(threads)}"
        of_checkpoints = {each.group for each in own if each.thread.startswith("checkpoint")}
        assert not of_checkpoints & {each.group for each in own if each.thread == "MainThread"}
    main = [[each for each in own if each.thread == "MainThread"] for own in issued]
    for one, other in combinations(range(processes), 2):
        assert agree(main[one], one, main[other], other), f"ranks {one} and {other}"


def test_another_order_is_seen() -> None:
    pair = frozenset({0, 1})
    crossing = Issued("crossing", pair, frozenset({(0, 1), (1, 0)}), "MainThread")
    crops = Issued("crops", pair, "all_gather", "MainThread")
    elsewhere = Issued("replicas", frozenset({0, 2}), "all_reduce", "MainThread")
    assert agree([crossing, elsewhere, crops], 0, [crossing, crops], 1)
    assert not agree([crossing, crops], 0, [crops, crossing], 1)
