"""Run the package's commands as a person would, in real processes."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from alexnet_dist.training.checkpoint import sums_of
from tests.forked import assert_none_left, ranks, run_forked

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")


def run_command(module: str, *words: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`python -m alexnet_dist.<module> <words>`; afterwards none of its processes may be left."""
    return _run([sys.executable, "-m", f"alexnet_dist.{module}", *words], cwd, timeout)


def run_torchrun(processes: int, module: str, *words: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The same under torchrun on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return _run([*launcher, "-m", f"alexnet_dist.{module}", *words], cwd, timeout)


def train(*words: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """A training that must succeed, without W&B and report unless the words ask for them; its processes are forked."""
    said = dict(word.split("=", 1) for word in words)
    left_out = [word for word in ("tracking=none", "run.report=false") if word.split("=")[0] not in said]
    started = ranks(int(said.get("parallel.processes", 2)))
    done = run_forked("train", *left_out, *words, cwd=cwd, environments=started, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def change_state(run_dir: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a run's only checkpoint says of the run, and its sums with it."""
    (state,) = run_dir.glob("checkpoints/*/state.json")
    saved = json.loads(state.read_text())
    change(saved)
    state.write_text(json.dumps(saved))
    sums = state.parent / "sha256sums"
    sums.write_text("".join(sums_of(state.parent, line.split()[1]) for line in sums.read_text().splitlines()))


def read_tensors(run_dir: Path, checkpoint: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a run's checkpoint, the last unless one is named, by their names and whole."""
    checkpoints = run_dir / "checkpoints"
    whole = run_dir / "whole.pt"
    dcp_to_torch_save(checkpoints / (checkpoint or (checkpoints / "latest").read_text().strip()), whole)
    loaded = torch.load(whole, weights_only=False)
    return {f"{group}.{name}": tensor for group, tensors in loaded.items() for name, tensor in tensors.items()}


def read_wandb(recorded: Path) -> Iterator[Any]:
    """The records of an offline W&B run: a seven-byte head, then LevelDB's log format in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2  # here: a day with a GPU may have to do without

    data = recorded.read_bytes()
    at, parts = 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def _run(command: list[str], cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment["ALEXNET_DIST_TEST"] = marker = str(cwd) + str(os.getpid()) + str(len(command))
    done = subprocess.run(
        command, cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL
    )
    assert_none_marked_left(marker)
    return done


def assert_none_marked_left(marker: str) -> None:
    assert_none_left(lambda process: process.environ().get("ALEXNET_DIST_TEST") == marker)
