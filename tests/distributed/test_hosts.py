"""Several hosts: replicas span them, a cut cable is a line and a restart, a run goes on with the hosts there are."""

import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alexnet_dist.training.checkpoint import list_checkpoints
from tests.commands import read_metrics, train
from tests.distributed.hosts import Host, NotPermitted, joined_hosts
from tests.forked import is_told

SETTINGS = (
    *("tracking=none", "run.dir=run", "run.report=false", "data.size=64", "trainer.batch_size=16", "trainer.log_every=1"),
    *("optimizer.lr=0.005", "data.statistics_images=16"),
)
QUICK = ("evaluation.views=1", "trainer.validate_every=1000", "trainer.epochs=1000", "checkpoint.every=10", "parallel.threads=1")
TIMEOUT = 10
# Else an agent that stays does not tell one that comes where to meet (torch 2.11 to 2.15).
ELASTIC = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    try:
        with joined_hosts(3) as joined:
            yield joined
    except NotPermitted as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
def test_a_replica_s_towers_on_two_hosts_end_with_the_bits_of_one_host(
    hosts: list[Host], few_images: Path, tmp_path: Path
) -> None:
    words = (*SETTINGS, *QUICK, f"data.root={few_images}", "trainer.max_steps=20")
    for folder in ("two", "one"):
        (tmp_path / folder).mkdir()
    log = tmp_path / "log"
    for host in hosts[:2]:
        host.slow_down(20e6)  # bits/s
    command = ("-m", "alexnet_dist.train", *words)
    two = [host.torchrun(hosts[0], "2", "two", *command, cwd=tmp_path / "two", log=log, processes=1) for host in hosts[:2]]
    assert [process.wait(timeout=900) for process in two] == [0, 0], log.read_text()
    assert log.read_text().count("2 towers in 2 processes, replicas: 1") == 1
    train(*words, cwd=tmp_path / "one")
    last, expected = (read_metrics(tmp_path / folder / "run")[-1] for folder in ("two", "one"))
    assert last["weights"] == expected["weights"]
    records = [_training(tmp_path / folder) for folder in ("two", "one")]
    waited = [statistics.median(record["crossing_exposed_seconds"] for record in of_run) for of_run in records]
    assert waited[0] > 3 * waited[1], "the link is slow"


def _training(cwd: Path) -> list[dict[str, float]]:
    return [record for record in read_metrics(cwd / "run") if record["kind"] == "train"]


@pytest.mark.slow
def test_a_cut_cable_is_a_line_and_plugged_in_again_the_run_goes_on(
    hosts: list[Host], few_images: Path, tmp_path: Path
) -> None:
    words = (*SETTINGS, *QUICK, f"data.root={few_images}", "trainer.max_steps=60", f"parallel.timeout={TIMEOUT}")
    logs = [tmp_path / f"{host.name}.log" for host in hosts[:2]]
    running = [
        host.torchrun(hosts[0], "2", "cut", "-m", "alexnet_dist.train", *words, cwd=tmp_path, log=log)
        for host, log in zip(hosts, logs, strict=False)
    ]
    _wait_for_step(15, tmp_path, running, logs)
    _wait_until(lambda: list_checkpoints(tmp_path / "run"), logs)  # written beside the training
    assert [host.ranks() for host in hosts[:2]] == [[0, 1], [2, 3]], "the towers of a replica stand on one host"
    hosts[1].cut()
    _wait_until(lambda: "error: " in logs[0].read_text(), logs)
    (line,) = (line for line in logs[0].read_text().splitlines() if line.startswith("error: "))
    assert "ranks 2, 3 have not answered" in line
    assert f"{TIMEOUT} seconds (parallel.timeout)" in line
    hosts[1].plug_in()
    assert [process.wait(timeout=900) for process in running] == [0, 0], [log.read_text() for log in logs]
    assert "resumed from run/checkpoints/step-000000" in logs[0].read_text()
    assert _steps(tmp_path) == list(range(1, 61))


@pytest.mark.slow
def test_a_run_goes_on_with_one_host_when_the_other_is_gone_and_with_both_when_it_is_back(
    hosts: list[Host], few_images: Path, tmp_path: Path
) -> None:
    settings = (*SETTINGS, *QUICK, f"data.root={few_images}", "trainer.slices=2")
    words = ("-m", "alexnet_dist.train", *settings, "parallel.timeout=600")
    logs = [tmp_path / f"{host.name}.log" for host in hosts]

    def start(number: int, steps: int, cwd: Path = tmp_path) -> subprocess.Popen[bytes]:
        host = hosts[number]
        nodes, meet = ("1:2", hosts[0]) if number < 2 else ("1", host)
        return host.torchrun(meet, nodes, "elastic", *words, f"trainer.max_steps={steps}", cwd=cwd, log=logs[number], **ELASTIC)

    staying, leaving = start(0, 80), start(1, 80)
    _wait_for_step(15, tmp_path, [staying, leaving], logs)
    hosts[1].kill_all()
    assert leaving.wait(timeout=10) == -signal.SIGKILL
    _wait_until(lambda: "replicas: 1," in logs[0].read_text(), logs)
    _wait_for_step(30, tmp_path, [staying], logs)
    with hosts[0].held_up() as held:  # so that the run is not complete before Python has started over there
        returned = start(1, 80)
        _wait_until(lambda: is_told(held, signal.SIGTERM), logs)
    _wait_until(lambda: logs[0].read_text().count("replicas: 2,") == 2, logs)
    assert [process.wait(timeout=900) for process in (staying, returned)] == [0, 0], [log.read_text() for log in logs]
    assert _steps(tmp_path) == list(range(1, 81))
    # With as many slices as there were replicas at most, no host that went or came has left a trace in the weights.
    unbroken = [word for word in settings if not word.startswith("run.dir")]
    train(*unbroken, "trainer.max_steps=80", "run.dir=unbroken", cwd=tmp_path)
    assert read_metrics(tmp_path / "run")[-1]["weights"] == read_metrics(tmp_path / "unbroken")[-1]["weights"]


def _steps(cwd: Path) -> list[int]:
    return [int(record["step"]) for record in _training(cwd)]


def _wait_for_step(step: int, cwd: Path, running: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    def reached() -> bool:
        assert all(process.poll() is None for process in running), [log.read_text() for log in logs if log.exists()]
        metrics = cwd / "run" / "metrics.jsonl"
        return metrics.exists() and metrics.read_text().count("\n") >= step

    _wait_until(reached, logs)


def _wait_until(reached: Callable[[], object], logs: list[Path]) -> None:
    deadline = time.monotonic() + 900
    while not reached():
        assert time.monotonic() < deadline, [log.read_text() for log in logs if log.exists()]
        time.sleep(0.1)
