"""Under which id a run is tracked again: what W&B's server has of one can be added to and not be replaced."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_dist.figures.kernels import draw_kernels
from alexnet_dist.figures.run_files import RunFiles, read_run
from alexnet_dist.figures.wandb_media import media
from alexnet_dist.track import _own_id, _set_aside, _waiting
from tests.forked import run_forked


def test_what_has_been_uploaded_keeps_its_id_for_itself(tmp_path: Path) -> None:
    run = RunFiles(tmp_path, {}, [], [{"wandb_id": "abc", "end": None}], None, None, None)
    part = tmp_path / "wandb" / "offline-run-1-abc"
    part.mkdir(parents=True)
    assert _own_id(run, aside=True) == "abc"
    (part / "run-abc.wandb.synced").touch()
    assert _own_id(run, aside=True) is None
    _set_aside([part])
    assert (tmp_path / "wandb/replaced/offline-run-1-abc/run-abc.wandb.synced").is_file()
    assert _own_id(run, aside=True) is None, "set aside it is still uploaded"


def test_jobs_of_a_sweep_that_recorded_nothing_are_named_and_left_out(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(two_runs[0], tmp_path / "sweep" / "1")
    (tmp_path / "sweep" / "0").mkdir()
    shutil.copy(two_runs[0] / "config.json", tmp_path / "sweep" / "0")
    done = run_forked("track", "sweep=sweep", "mode=offline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sweep/0 has no records and is left out" in done.stdout
    assert list((tmp_path / "sweep" / "1" / "wandb").glob("offline-run-*"))


def test_what_was_recorded_in_wandb_dir_is_found_there_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    run = RunFiles(tmp_path / "run", {}, [], [{"wandb_id": "abc", "end": None}], None, None, None)
    for name in ("run-20121001_120000-xyz", "run-20121001_120000-my-abc", "offline-run-20121001_120000-abc"):
        (tmp_path / "elsewhere" / "wandb" / name).mkdir(parents=True)
    (tmp_path / "run").mkdir()
    assert _own_id(run, aside=True) == "abc"
    assert [part.name for part in _waiting(run)] == ["offline-run-20121001_120000-abc"]
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "run" / ".." / "elsewhere"))
    assert len(_waiting(replace(run, folder=tmp_path / "elsewhere"))) == 1, "told once where both are one folder"
    (tmp_path / "elsewhere" / "wandb" / "run-20121001_120001-abc").mkdir()
    assert _own_id(run, aside=True) is None


def test_a_folder_that_is_named_has_the_files_and_disabled_records_nothing(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    words = ("run=run", "mode=offline", "output=out")
    shutil.copytree(two_runs[0], tmp_path / "run")
    (tmp_path / "out").mkdir()
    done = run_forked("track", *words, cwd=tmp_path, environments=[{"WANDB_DIR": str(tmp_path / "elsewhere")}])
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out" / "wandb").glob("offline-run-*"))
    assert not (tmp_path / "elsewhere").exists()
    done = run_forked("track", "run=run", cwd=tmp_path, environments=[{"WANDB_MODE": "disabled"}])
    assert (done.returncode, done.stderr.split(":")[1]) == (2, " WANDB_MODE=disabled records nothing")


def test_pictures_of_other_weights_than_the_last_checkpoint_s_are_left_out(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = replace(read_run(two_runs[0]), folder=tmp_path)
    assert run.state
    assert run.state.weights
    (tmp_path / "figures").mkdir()
    for name, weights in (("kernels", run.state.weights), ("filters", "of an older report")):
        draw_kernels(torch.rand(16, 3, 5, 5), 2, tmp_path / "figures" / f"{name}.png", of=weights)
    assert list(media(run)) == ["figures/kernels"]
