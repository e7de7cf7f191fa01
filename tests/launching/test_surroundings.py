"""Odd places to start in: no home, a long TMPDIR, srun in a container, W&B's variables, a Ctrl-C too early. And no litter."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from wandb.proto import wandb_internal_pb2

from alexnet_dist.errors import UserError
from alexnet_dist.launching.folders import settle_folders
from alexnet_dist.launching.outer import adopt_srun
from alexnet_dist.launching.processes import PRELOAD
from alexnet_dist.launching.wandb_account import said_mode
from alexnet_dist.training.tensors import _told_already
from tests.commands import read_wandb, run_command, run_torchrun
from tests.forked import ranks, run_forked

SETTLE = "from alexnet_dist.launching.folders import settle_folders; settle_folders(); "
# A user whom no entry in passwd names, and whose files are those of the user who starts the test.
NOBODY = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
FOLDERS = "HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def _as_nobody(code: str, temporary: Path, **home: str) -> subprocess.CompletedProcess[str]:
    if subprocess.run([*NOBODY, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces")
    kept = {name: value for name, value in os.environ.items() if name not in FOLDERS}
    command = [*NOBODY, sys.executable, "-c", SETTLE + code]
    environment = {**kept, "TMPDIR": str(temporary), **home}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_user_without_a_home_has_one_in_the_temporary_folder(short_folder: Path) -> None:
    done = _as_nobody("import pathlib, wandb; wandb.setup(); print(pathlib.Path.home())", short_folder)
    assert done.stdout.strip() == f"{short_folder}/alexnet_dist-12345", done.stderr
    assert done.stderr == f"this user has no home: caches are in {short_folder}/alexnet_dist-12345\n"
    assert (short_folder / "alexnet_dist-12345").stat().st_mode & 0o777 == 0o700


def test_what_libraries_keep_in_a_home_that_is_read_only_is_kept_elsewhere(short_folder: Path) -> None:
    home = short_folder / "home"
    (home / ".cache").mkdir(parents=True)
    home.chmod(0o555)
    code = "import os, matplotlib; print(matplotlib.get_configdir(), *map(os.environ.get, ('XDG_CACHE_HOME', 'XDG_DATA_HOME')))"
    done = _as_nobody(code, short_folder, HOME=str(home))
    own = short_folder / "alexnet_dist-12345"
    assert done.stdout.split() == [f"{own}/.config/matplotlib", "None", f"{own}/.local/share"], done.stderr
    assert done.stderr == f"this user may not write at home: caches are in {own}\n"


def test_a_tmpdir_too_long_for_sockets_gives_way_to_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setenv("TMPDIR", str(long))
    settle_folders()
    assert (tempfile.gettempdir(), os.environ["TMPDIR"]) == ("/tmp", "/tmp")


def test_srun_needs_no_scontrol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    step = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    for nodes, first in (("gpu[03-04,7],login", "gpu03"), ("rack[1-2]node[5-8]-ib", "rack1node5-ib"), ("a,b", "a"), ("n1", "n1")):
        adopted = adopt_srun({**step, "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": nodes})
        assert adopted["MASTER_ADDR"] == first


def test_several_processes_that_have_nowhere_to_meet_are_refused(tmp_path: Path) -> None:
    nowhere = "RANK and WORLD_SIZE are set and MASTER_ADDR and MASTER_PORT not, "
    for size, said in (("2", nowhere), ("", "WORLD_SIZE is set to ''")):
        done = run_forked("train", cwd=tmp_path, environments=[{"RANK": "0", "WORLD_SIZE": size}])
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {said}")


@pytest.mark.parametrize("start", [run_command, partial(run_torchrun, 1)], ids=["plain", "torchrun"])
def test_a_run_leaves_nothing_in_the_temporary_folder(
    start: Callable[..., CompletedProcess[str]],
    few_images: Path,
    tmp_path: Path,
    short_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", str(short_folder))
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ("trainer.max_steps=1", "trainer.batch_size=16", "evaluation.views=1", "parallel.processes=1", "run.dir=run")
    done = start("train", *words, f"data.root={few_images}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    def left() -> list[Path]:
        return [entry for entry in short_folder.iterdir() if not entry.name.startswith("torchelastic_")]  # which is torchrun's

    deadline = time.monotonic() + 10  # W&B's process is the last to leave
    while left() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left() == []


def test_a_ctrl_c_while_python_imports_is_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "alexnet_dist.train"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # pytest in the background has it ignored
    )  # fmt: skip
    while "libtorch_cpu" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == -signal.SIGINT
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "needless"),
    [
        ("train", {"nvidia.dali", "torch.distributed.checkpoint", "torch.distributed.tensor", "sympy", "wandb", "matplotlib"}),
        ("prepare", {"torch", "nvidia.dali"}),
    ],
)
def test_a_command_starts_without_what_only_its_processes_need(command: str, needless: set[str]) -> None:
    program = f"import sys, alexnet_dist.launching.commands, alexnet_dist.{command}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not needless & set(done.stdout.split())


@pytest.mark.parametrize("stages", ["json", "tests.gpu.stages"])  # those of the GPU's day are forked too
def test_what_processes_are_forked_from_asks_no_gpu_anything(stages: str) -> None:
    # CUDA does not work in processes forked from one that has begun with it, and a lock that a thread holds is held for ever.
    program = f"""
import sys, threading
import torch

def asked(*_):
    raise AssertionError("asked")

torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = torch._C._cuda_getDeviceCount = asked
from alexnet_dist import train
from alexnet_dist.launching import processes

def stand_by():
    import {PRELOAD}, {stages}
    assert threading.active_count() == 1
    sys.exit(3)

processes.stand_by = stand_by
train.main()
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 3


def test_a_list_of_commands_that_nobody_can_be_told_is_no_traceback() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "alexnet_dist", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_does_not_tell_of_torch_s_stream_on_a_full_disk_and_of_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class NoCloseWriter:
        def __del__(self) -> None:
            raise OSError("of the stream")

    class Other:
        def __del__(self) -> None:
            raise OSError("of another")

    monkeypatch.setattr(sys, "unraisablehook", _told_already)
    for kind in (NoCloseWriter, Other):
        kind()
    said = capsys.readouterr().err
    assert "of another" in said
    assert "of the stream" not in said


def test_a_mode_that_wandb_does_not_know_is_refused(tmp_path: Path) -> None:
    done = run_forked("train", cwd=tmp_path, environments=[{"WANDB_MODE": "ofline"}])
    assert (done.returncode, done.stderr) == (2, "error: WANDB_MODE=ofline is no mode of W&B: did you mean offline?\n")
    with pytest.raises(UserError, match="take one of online, offline, disabled, shared, or unset it"):
        said_mode({"WANDB_MODE": "7"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WANDB_DIR", "/proc/nowhere", "WANDB_DIR=/proc/nowhere cannot be made (No such file or directory): name another"),
        ("WANDB_SILENT", "", "W&B does not take silent='' (Input should be a valid boolean"),
    ],
)
def test_what_wandb_would_stumble_over_is_refused(name: str, value: str, said: str, few_images: Path, tmp_path: Path) -> None:
    words = (f"data.root={few_images}", "tracking=wandb", "trainer.max_steps=1", "parallel.processes=1", "run.dir=run")
    done = run_forked("train", *words, cwd=tmp_path, environments=[{name: value}])
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {said}"), line


def test_wandb_s_variables_hold_where_no_override_says_otherwise(
    few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w").mkdir()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "w"))
    names = {"WANDB_MODE": "offline", "WANDB_PROJECT": "their project", "WANDB_NAME": "their name"}
    small = ("trainer.max_steps=1", "trainer.batch_size=16", "evaluation.views=1", "run.report=false", f"data.root={few_images}")
    for words, told in (((), ("their project", "their name")), (("tracking.project=p", "tracking.name=n"), ("p", "n"))):
        shutil.rmtree(tmp_path / "w" / "wandb", ignore_errors=True)
        run = f"run.dir=run{len(words)}"
        done = run_forked("train", *small, run, *words, cwd=tmp_path, environments=[{**ranks(1)[0], **names}])
        assert done.returncode == 0, done.stderr
        (recorded,) = (tmp_path / "w" / "wandb").glob("offline-run-*/*.wandb")
        runs = [record.run for record in read_wandb(recorded) if record.HasField("run")]
        assert isinstance(runs[0], wandb_internal_pb2.RunRecord)
        assert (runs[0].project, runs[0].display_name) == told
