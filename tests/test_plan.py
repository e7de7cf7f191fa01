"""The plan as a command: described machines, this one, and what is refused."""

import json
from pathlib import Path

import pytest

from tests.forked import run_forked


def _json(*words: str, cwd: Path) -> dict:
    done = run_forked("plan", "format=json", *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert not list(cwd.iterdir()), "nothing is written"
    return json.loads(done.stdout)


def test_the_paper_s_machine_takes_the_paper_s_five_to_six_days(tmp_path: Path) -> None:
    plan = _json("machine=gtx580", cwd=tmp_path)
    (two_towers,) = [row for row in plan["layouts"] if row["layout"]["shares"] == 2 and row["overlap"] == "wait"]
    assert 5 < two_towers["training"] / 86400 < 6
    assert two_towers["memory"] < 3 * 2**30
    assert two_towers["fits"]


def test_a_plan_names_the_best_layout_and_how_to_start_it(tmp_path: Path) -> None:
    done = run_forked("plan", "machine=consumer", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "best: one net in 2 processes, crossings split" in done.stdout
    assert "parallel.processes=2, trainer.batch_size=128 parallel.overlap=true" in done.stdout
    assert "90 epochs" in done.stdout


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (("machine.nodes=2", "machine.devices=6"), "torchrun --nnodes 2 --nproc-per-node 4,"),
        (("machine.nodes=2", "machine.devices=3", "model.towers=1"), "torchrun --nnodes 2 --nproc-per-node 2,"),
        (("machine.nodes=4", "machine.devices=1"), "torchrun --nnodes 4 --nproc-per-node 1,"),
        (("slices=4", "machine.nodes=1"), "parallel.processes=8, trainer.batch_size=128 trainer.slices=4 parallel.overlap="),
    ],
)
def test_on_several_nodes_the_processes_are_those_of_the_layout(words: tuple[str, ...], start: str, tmp_path: Path) -> None:
    done = run_forked("plan", "machine=infiniband", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"start it with {start}" in done.stdout


def test_this_machine_is_probed(tmp_path: Path) -> None:
    words = ("machine=here", "model=tiny", "batch_size=16", "device=cpu", "machine.rounds=1")
    plan = _json(*words, cwd=tmp_path)
    machine = plan["machine"]
    assert (machine["nodes"], machine["devices"]) == (1, 2)
    assert all(machine[rate] > 0 for rate in ("conv", "fc", "streaming", "operations", "launch"))
    assert machine["link"]["bandwidth"] > 0
    slowed = _json(*words, "machine.link_rate=1e6", cwd=tmp_path)
    assert slowed["machine"]["link"]["bandwidth"] < 1e6 / 8


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["machine=abacus"], ["machine/abacus", "gtx580"]),
        (["batch_size=0"], ["batch_size", "greater than 0"]),
        (["slices=256"], ["batch_size=128", "slices=256"]),
        (["model=null"], ["group of settings", "null", "model=paper"]),
        (["precision=bf16"], ["GTX 580", "bf16", "precision=fp32"]),
        (["machine.device.memory=1e8"], ["memory", "batch_size"]),
        (["machine.link=null"], ["machine.link", "2 devices"]),
        (["machine.nodes=2"], ["machine.network", "2 nodes"]),
        (["machine.device.conv_efficiency=1.5"], ["machine.device.conv_efficiency", "1.5"]),
        (["machine.kind=there"], ["machine.kind", "there"]),
        (["model.layers.conv3.filters=97"], ["conv3", "97"]),
        (["machine=here", "precision=tf32", "device=cpu"], ["tf32", "device=cpu"]),
    ],
    ids=lambda value: " ".join(value) if value and "=" in value[0] else "",
)
def test_what_makes_no_sense_is_refused_in_a_sentence(words: list[str], parts: list[str], tmp_path: Path) -> None:
    done = run_forked("plan", *words, cwd=tmp_path)
    said = done.stderr.strip()
    assert done.returncode == 2, said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert all(part in said for part in parts), said
