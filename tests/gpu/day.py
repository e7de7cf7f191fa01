"""Everything that a day with one GPU should tell, the most telling first, in stages that each end by themselves.

python -m tests.gpu.day --out day              all stages; day/report.md and day/<stage>.json
python -m tests.gpu.day --out day --part 1     those that fit into the first ten minutes, then --part 2 and so on
python -m tests.gpu.day --out day --only machine numerics
python -m tests.gpu.day --dry                  the same on a CPU, in the small: that it runs, and what each stage would do

A stage has a process and a time limit of its own, and writes what it has found as it goes; the day goes on after one that fails.
"""

import argparse
import json
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from alexnet_dist.launching.processes import PRELOAD
from tests.gpu import stages
from tests.gpu.stages import STAGES, Stage

PART_SECONDS = 540.0
# Of a stage tried dry, and of the whole day.
DRY_SECONDS, DRY_DAY = 75.0, 285.0
# A stage is forked from a process that has imported what they need and touched no GPU.
CONTEXT = multiprocessing.get_context("forkserver")


def parts(chosen: list[Stage]) -> list[list[Stage]]:
    """The stages in their order, in parts whose time limits add up to PART_SECONDS at most."""
    packed: list[list[Stage]] = []
    for stage in chosen:
        if not packed or sum(each.seconds for each in packed[-1]) + stage.seconds > PART_SECONDS:
            packed.append([])
        packed[-1].append(stage)
    return packed


def run_stage(stage: Stage, out: Path, limit: float, dry: bool) -> dict[str, Any]:
    """Run a stage in a process group of its own; what it found, and how it ended."""
    found, log = out / f"{stage.name}.found", out / f"{stage.name}.log"
    begun = time.monotonic()
    process = CONTEXT.Process(target=stages.enter, args=(stage.name, found, log, dry))
    process.start()
    process.join(limit)
    if process.exitcode is None:
        ended = f"not done within {limit:g} seconds"
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            # What it started in sessions of their own too, or that would keep the GPU.
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join(30)
    else:
        ended = "done" if process.exitcode == 0 else f"failed with status {process.exitcode}"
    lines = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    found.unlink(missing_ok=True)
    told = {
        "stage": stage.name,
        "what": " ".join((stage.work.__doc__ or "").split()),
        "ended": ended,
        "seconds": round(time.monotonic() - begun, 1),
        "found": lines,
        **({} if ended == "done" else {"log": log.read_text(errors="replace")[-4000:]}),
    }
    (out / f"{stage.name}.json").write_text(json.dumps(told, indent=1))
    return told


def report(told: list[dict[str, Any]], dry: bool) -> str:
    """What the stages told, as a page of Markdown."""
    lines = ["# A day with a GPU" + (", tried dry on a CPU" if dry else ""), ""]
    lines += ["| stage | ended | seconds |", "|---|---|---|"]
    lines += [f"| {each['stage']} | {each['ended']} | {each['seconds']} |" for each in told]
    for each in told:
        lines += ["", f"## {each['stage']}", "", each["what"], "", "```"]
        lines += [" ".join(f"{key}={_short(value)}" for key, value in found.items()) for found in each["found"]]
        lines += [each["log"]] if "log" in each else []
        lines += ["```"]
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.day")
    parser.add_argument("--out", type=Path, default=Path("day"))
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[stage.name for stage in STAGES])
    parser.add_argument("--part", type=int)
    asked = parser.parse_args()
    chosen = [stage for stage in STAGES if not asked.only or stage.name in asked.only]
    if asked.part:
        chosen = parts(chosen)[asked.part - 1]
    CONTEXT.set_forkserver_preload([PRELOAD, "alexnet_dist.train", "tests.gpu.stages"])
    asked.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    for stage in chosen:
        print(f"{stage.name} ...", end=" ", flush=True)
        limit = min(DRY_SECONDS, max(1.0, begun + DRY_DAY - time.monotonic())) if asked.dry else stage.seconds
        ended = run_stage(stage, asked.out, round(limit), asked.dry)
        print(f"{ended['ended']}, {ended['seconds']} s", flush=True)
        done = [asked.out / f"{each.name}.json" for each in STAGES]
        told = [json.loads(path.read_text()) for path in done if path.exists()]
        (asked.out / "report.md").write_text(report(told, asked.dry))
    print(f"{asked.out / 'report.md'} tells it", flush=True)


if __name__ == "__main__":
    main()
