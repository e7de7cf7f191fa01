"""starts.jsonl: a line for each start of a run and each end that it lived to see. Unlike metrics.jsonl it is never rewound."""

import json
import socket
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from alexnet_dist.dali import dali_package

FILE = "starts.jsonl"


def note_start(
    run_dir: Path, step: int, device: torch.device, processes: int, overrides: Sequence[str], wandb_id: str | None
) -> None:
    """Note a start at `step`: where, in how many processes, with what overrides and versions. Raises OSError."""
    _append(
        run_dir,
        {
            "event": "start",
            "step": step,
            "host": socket.gethostname(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "processes": processes,
            "wandb_id": wandb_id,
            "overrides": list(overrides),
            "versions": {name: version(name) for name in ("alexnet-dist", "torch", dali_package())},
        },
    )


def note_end(run_dir: Path, step: int, how: str) -> None:
    """Note that the run ended at `step`, and how in a few words. Raises OSError."""
    _append(run_dir, {"event": "end", "step": step, "how": (how.splitlines() or [""])[0][:200]})


def read_starts(run_dir: Path) -> list[dict[str, Any]]:
    """The starts of a run in order, each with its end as `end`, or None where it did not live to note one."""
    path = run_dir / FILE
    starts: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            event = json.loads(line)
        except ValueError:  # a line that a full disk has cut
            continue
        if event["event"] == "start":
            starts.append({**event, "end": None})
        elif starts:
            starts[-1]["end"] = event
    return starts


def _append(run_dir: Path, event: dict[str, Any]) -> None:
    with (run_dir / FILE).open("a") as file:
        file.write(json.dumps({**event, "time": round(time.time(), 3)}) + "\n")
