"""The command `prepare`, killed and interrupted: nothing is lost, and no process is left."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.packing.miniature import checksums, encoded, photo, prepare_command, run_prepare, write_files


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path, kills):
    files = {f"train/{number % 7}/{number}.jpg": encoded(photo(number, 100, 80)) for number in range(360)}
    files |= {f"train/0/bad{number}.jpg": b"bad" for number in range(5)}
    files |= {f"val/3/{number}.jpg": encoded(photo(number, 80, 100)) for number in range(60)}
    source = write_files(tmp_path / "source", files)
    common = ("source=imagefolder", f"root={source}", "size=64", "samples_per_shard=6", "max_skipped=0.1", "workers=2")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert run_prepare(*common, f"output={undisturbed}").returncode == 0

    moments = random.Random(kills)
    interrupted = 0
    for _ in range(kills):
        process = subprocess.Popen(
            prepare_command(*common, f"output={killed}"), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "validation files" in line:
                break
        time.sleep(moments.uniform(0, 0.4))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if (killed / "manifest.json").exists():  # too late: anew
            shutil.rmtree(killed)
        else:
            interrupted += 1
    assert interrupted
    answer = run_prepare(*common, f"output={killed}")
    assert answer.returncode == 0, answer.stderr
    assert checksums(killed) == checksums(undisturbed)


def started(tmp_path: Path) -> subprocess.Popen[str]:
    """A run of 2,000 images under way, in a process group of its own."""
    image = encoded(photo(0))
    files = {f"train/a/{number}.jpg": image for number in range(2000)}
    process = subprocess.Popen(
        prepare_command(
            "source=imagefolder",
            f"root={write_files(tmp_path / 'source', files)}",
            f"output={tmp_path / 'set'}",
            "workers=2",
            "size=256",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background jobs with SIGINT ignored, and that would be inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("packing"):
            return process
    pytest.fail(f"it ended before it packed anything: {process.communicate()}")


def assert_group_ends(group: int) -> None:
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("worker processes outlived the command")


def test_its_processes_end_when_it_is_killed_alone(tmp_path):
    process = started(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert_group_ends(process.pid)


@pytest.mark.parametrize(
    ("send", "signum", "status", "said"),
    [
        (os.killpg, signal.SIGINT, 130, "interrupted\n"),
        (os.killpg, signal.SIGTERM, 143, "ended by SIGTERM\n"),
        (os.kill, signal.SIGTERM, 143, "ended by SIGTERM\n"),
    ],
)
def test_interrupted_it_says_so_and_leaves_no_process(tmp_path, send, signum, status, said):
    process = started(tmp_path)
    send(process.pid, signum)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (status, said)
    assert_group_ends(process.pid)
