"""A run's folder: its own alone, found again by its job's restarts, gone where the run was refused."""

import json
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from alexnet_dist import train
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from alexnet_dist.launching.outer import job_name
from alexnet_dist.tracking.run_folder import RunFolder, name_run_folder


def test_starts_in_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "2012-09-30_12-00-00")
    named = [train.prepare_start(compose("train", [f"seed={seed}"]))[1]["run"]["dir"] for seed in range(3)]
    assert named == [f"runs/2012-09-30_12-00-00-tiny{number}" for number in ("", "-2", "-3")]
    assert all((tmp_path / folder).is_dir() for folder in named)


def test_sweeps_in_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (OmegaConf.create({"dir": "${new_folder:runs/sweep-2012}"}) for _ in range(2))
    assert [first.dir, first.dir, second.dir] == ["runs/sweep-2012", "runs/sweep-2012", "runs/sweep-2012-2"]


def test_the_restarts_of_a_job_find_its_folder() -> None:
    slurm, torchrun = {"SLURM_JOB_ID": "7", "TORCHELASTIC_RUN_ID": "abc"}, {"TORCHELASTIC_RUN_ID": "0123456789"}
    assert [job_name(slurm), job_name(torchrun), job_name({"TORCHELASTIC_RUN_ID": "none"})] == ["slurm-7", "01234567", None]
    assert name_run_folder("tiny", job_name(slurm), ["seed=1"]) == Path("runs/tiny-slurm-7")


def test_a_second_command_of_a_job_is_not_taken_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for overrides, folder in ((["seed=1"], "tiny-slurm-7"), (["seed=2"], "tiny-slurm-7-2"), ([], "tiny-slurm-7-3")):
        for _ in range(2):  # at first and when the job is queued again
            named = name_run_folder("tiny", "slurm-7", overrides)
            assert named == Path("runs") / folder
            named.mkdir(parents=True, exist_ok=True)
            (named / "config.json").write_text(json.dumps({"run": {"overrides": overrides}}))


def test_a_second_command_at_the_same_time_passes_over_the_first_one_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = name_run_folder("tiny", "slurm-9", ["seed=0"])
    with RunFolder(first).held():
        assert name_run_folder("tiny", "slurm-9", ["seed=1"]) == Path("runs/tiny-slurm-9-2")


def test_a_folder_that_another_run_holds_is_not_taken_away(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        folder.remove_if_bare()
        assert (tmp_path / "run").is_dir()
    folder.remove_if_bare()
    assert not (tmp_path / "run").exists()


def test_a_run_that_begins_anew_keeps_nothing_of_one_that_ended_before_its_first_checkpoint(tmp_path: Path) -> None:
    for name in ("stopped", "timeline.json", "bad_images.tsv", "metrics.jsonl"):
        (tmp_path / name).touch()
    RunFolder(tmp_path).take(anew=False)
    assert {path.name for path in tmp_path.iterdir()} == {"timeline.json", "bad_images.tsv", "metrics.jsonl"}
    RunFolder(tmp_path).take(anew=True)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl"}


def test_a_folder_is_one_live_run_s_and_other_ranks_only_read(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").held():
        with pytest.raises(UserError, match="in use by a live run"), RunFolder(tmp_path / "run").held():
            pass
        with RunFolder(tmp_path / "run", rank=1).held():
            RunFolder(tmp_path / "run", rank=1).leave("done")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_run_that_is_refused_leaves_no_folder_but_one_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.jsonl").touch()
    for name in ("new", "old"):
        with pytest.raises(UserError), RunFolder(tmp_path / name).held():
            raise UserError("no")
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]
