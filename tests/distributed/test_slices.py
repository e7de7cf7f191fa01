"""A run in slices ends with the same bits on any number of processes."""

import json
from pathlib import Path

import pytest

from tests.distributed.slices import NETS, train_in
from tests.forked import ranks, run_forked

STEPS = "trainer.max_steps=6"
SMALL = ("trainer.batch_size=16", "data.statistics_images=16")


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("quick start", ("trainer.slices=4", "trainer.native=on", "precision=fp32")),
        ("paper", ("trainer.slices=8", "trainer.native=off", "precision=bf16")),
    ],
)
def test_any_number_of_processes_ends_with_the_same_weights(
    net: str, words: tuple[str, ...], few_images: Path, tmp_path: Path
) -> None:
    said = (*NETS[net], *words, *SMALL, "trainer.max_steps=3", f"data.root={few_images}")
    hashes = {count: train_in(count, *said, f"run.dir=run-{count}", cwd=tmp_path) for count in (1, 2, 4, 8)}
    assert len(set(hashes.values())) == 1, hashes


def test_stopped_on_four_and_resumed_on_one_and_on_eight_it_ends_as_unbroken(few_images: Path, tmp_path: Path) -> None:
    said = ("trainer.slices=4", *SMALL, f"data.root={few_images}")
    unbroken = train_in(2, *said, STEPS, "run.dir=unbroken", cwd=tmp_path)
    for processes, steps in ((4, 2), (1, 4)):
        train_in(processes, *said, f"trainer.max_steps={steps}", "run.dir=run", cwd=tmp_path)
    assert train_in(8, *said, STEPS, "run.dir=run", cwd=tmp_path) == unbroken
    # The hash of a checkpoint, of the record and of `evaluate` is the same one.
    (newest,) = (tmp_path / "run" / "checkpoints").glob("step-00000006")
    assert json.loads((newest / "state.json").read_text())["weights"] == unbroken
    words = ("checkpoint=run", f"data.root={few_images}", "views=1")
    done = run_forked("evaluate", *words, cwd=tmp_path, environments=ranks(1))
    assert json.loads(done.stdout.splitlines()[-1])["weights"] == unbroken
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["weights"] == unbroken
