"""Old results do not pass as new: what a run may go on from, and what it says of what differs."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_dist.checks import check_settings
from alexnet_dist.data.images import open_folder
from alexnet_dist.errors import UserError
from alexnet_dist.figures.run_files import read_run
from alexnet_dist.figures.run_report import _story
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.tracking.display import Display
from alexnet_dist.tracking.run_folder import read_outcome
from alexnet_dist.train import new_state
from alexnet_dist.training.inputs import check_same_data
from alexnet_dist.training.resuming import check_resume, check_same_run, choose_checkpoint, have_other_images, what_differs
from alexnet_dist.training.state import SavedState
from tests.commands import read_metrics, train
from tests.forked import ranks, run_forked


def _config(*words: str) -> dict[str, Any]:
    return compose("train", ["data.root=images", *words])


@pytest.fixture(scope="module")
def saved() -> SavedState:
    config = _config()
    return SavedState(build_table(config["model"]).parameter_shapes(), config, ["a"], ["a"], training_images=10)


@pytest.mark.parametrize(
    ("word", "said", "group"),
    [
        ("seed=1", "seed=1", "seed"),
        ("data.root=others", "data.root=others", "data"),
        ("data.mirror=false", "data.mirror=False", "data"),
        ("model.operations.lrn.kind=identity", "model.operations.lrn.kind=identity", "model"),
    ],
)
def test_another_seed_model_or_data_is_refused_unless_it_is_allowed(word: str, said: str, group: str, saved: SavedState) -> None:
    config = _config(word)
    with pytest.raises(UserError) as refused:
        check_same_run(Path("step-1"), saved, check_settings(config), config)
    assert f"and this start says {said}: " in str(refused.value)
    assert f"resume_allow=[{group}]" in str(refused.value)
    config["resume_allow"] = [group]
    check_same_run(Path("step-1"), saved, check_settings(config), config)


def test_what_does_not_change_the_samples_is_allowed(saved: SavedState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    os.symlink("images", "link")
    config = _config("data.root=link", "data.threads=3", "optimizer.lr=1", "run.dir=elsewhere", "tracking=none")
    check_same_run(Path("step-1"), saved, check_settings(config), config)
    assert what_differs(saved.config, config) == {"data.threads": (None, 3), "optimizer.lr": (0.01, 1)}


def test_of_imported_weights_the_model_alone_is_asked(saved: SavedState) -> None:
    imported = SavedState(saved.shapes, _config("data.size=70"), ["a"], ["a"], training_images=None)
    config = _config("seed=1")
    check_same_run(Path("step-1"), imported, check_settings(config), config)


def test_it_is_refused_before_processes_start_and_a_damaged_checkpoint_is_left_to_them(saved: SavedState, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    saved.write(checkpoint)
    assert SavedState.read(checkpoint) == saved
    config = _config("seed=1")
    with pytest.raises(UserError, match="seed=0"):
        check_resume(check_settings(config), config, tmp_path)
    (checkpoint / "state.json").write_text("{")
    check_resume(check_settings(config), config, tmp_path)


def test_a_checkpoint_named_in_the_folder_of_another_run_is_refused(saved: SavedState, tmp_path: Path) -> None:
    one, other = (tmp_path / name / "checkpoints" / "step-00000001" for name in "ab")
    for checkpoint, origin in ((one, None), (other, str(one))):
        checkpoint.mkdir(parents=True)
        replace(saved, resumed_from=origin).write(checkpoint)

    def check(resume: Path | str, folder: str) -> None:
        config = _config(f"resume={resume}")
        check_resume(check_settings(config), config, tmp_path / folder)

    detour = tmp_path / "b" / ".." / "a"
    for resume, folder in ((one, "b"), (tmp_path / "a", "b"), (detour, "b"), (tmp_path / "a", "a"), (one, "c")):
        check(resume, folder)
    for resume, folder in ((other, "a"), (tmp_path / "b", "a"), (one, "a")):
        with pytest.raises(UserError, match=r"holds a run \(step-00000001\) that did not begin from resume="):
            check(resume, folder)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config.json": '{"my": 1}', "metrics.jsonl": "mine"}, "config.json is not a run's"),
        ({"metrics.jsonl": "mine"}, "metrics.jsonl is not a run's"),
        ({"config.json": "["}, "config.json cannot be read"),
        ({"config.json": "[1]"}, "config.json is not a run's"),
        ({"config.json": '{"run": {}}', "metrics.jsonl": "{}", "stopped": "done"}, "a run that is done"),
    ],
)
def test_nothing_in_a_folder_without_a_checkpoint_is_written_over(files: dict[str, str], said: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        choose_checkpoint(check_settings(_config()), tmp_path, print)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    for name, text in {"config.json": '{"run": {}}', "metrics.jsonl": "{}", "stopped": "signal"}.items():
        (tmp_path / name).write_text(text)
    assert choose_checkpoint(check_settings(_config()), tmp_path, print) is None


@pytest.mark.parametrize("size", [8, 48, 80])
def test_with_another_batch_size_a_run_goes_on_in_its_epoch_and_ends_with_its_last(
    size: int, few_images: Path, tmp_path: Path
) -> None:
    words = (f"data.root={few_images}", "run.dir=run", "parallel.processes=1", "evaluation.views=1", "trainer.log_every=1")
    train(*words, "trainer.batch_size=16", "trainer.max_steps=25", cwd=tmp_path)  # an epoch of 20 and 80 images
    train(*words, f"trainer.batch_size={size}", "trainer.epochs=3", cwd=tmp_path)
    steps = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "train"]
    assert len(steps) == 25 + (320 // size - 80 // size) + 320 // size
    assert steps[25]["epoch"] == pytest.approx(1 + (80 // size + 1) * size / 320)
    assert [line["epoch"] for line in read_metrics(tmp_path / "run") if line["kind"] == "val"] == [1, 2, 3, 3]


def test_a_record_that_lacks_lines_is_told_of(two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path) -> None:
    shutil.copytree(two_runs[0], tmp_path / "a")
    metrics = tmp_path / "a" / "metrics.jsonl"
    words = (f"data.root={few_images}", "trainer.batch_size=32", "evaluation.views=1", "run.dir=a", "trainer.log_every=1")
    for steps, told in ((9, False), (10, True)):
        done = train(*words, f"trainer.max_steps={steps}", cwd=tmp_path)
        assert ("warning: metrics.jsonl is shorter than it was at the checkpoint" in done.stdout) == told
        metrics.write_bytes(b"")
    metrics.unlink()
    assert "10 steps" in _story(read_run(tmp_path / "a"))
    (tmp_path / "a" / "timeline.json").write_text("{")
    with pytest.raises(UserError, match=r"a/timeline\.json is damaged"):
        read_run(tmp_path / "a").timeline()


def test_images_are_others_where_they_come_from_another_place(saved: SavedState) -> None:
    assert all(have_other_images(saved, _config(word), 10) for word in ("data.root=others", "data.val_every=5"))
    assert not have_other_images(saved, _config("data.threads=3", "data.mirror=false"), 10)
    assert have_other_images(saved, _config(), 11)


def test_other_images_may_be_allowed(saved: SavedState, few_images: Path) -> None:
    images, _ = open_folder(few_images)
    before = replace(saved, classes=list(images.classes), class_ids=list(images.class_ids))
    with pytest.raises(UserError, match=r"was made with 10 training images and these are 320: .*resume_allow=\[data\]"):
        check_same_data(Path("step-1"), before, images, [])
    check_same_data(Path("step-1"), before, images, ["data"])
    with pytest.raises(UserError, match="are others"):
        check_same_data(Path("step-1"), saved, images, ["data"])


def test_a_complete_run_started_again_is_evaluated_only(two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path) -> None:
    shutil.copytree(two_runs[0], tmp_path / "a")
    before = (tmp_path / "a" / "config.json").read_bytes()
    words = (f"data.root={few_images}", "trainer.max_steps=8", "trainer.batch_size=32", "evaluation.views=1", "run.dir=a")
    done = train(*words, "parallel.processes=1", "optimizer.lr=0.5", cwd=tmp_path)
    assert "not as the checkpoint was made: optimizer.lr=0.5 (was 0.01)" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("already complete: evaluated only; ")
    assert (tmp_path / "a" / "config.json").read_bytes() == before
    assert json.loads(before)["optimizer"]["lr"] == 0.01
    first, again = (read_metrics(folder / "a") for folder in (two_runs[0].parent, tmp_path))
    assert [(line["kind"], line["loss"]) for line in again] == [(line["kind"], line["loss"]) for line in first]


def test_a_refused_start_of_a_launcher_s_leaves_a_run_that_is_done_done(
    two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(two_runs[0], tmp_path / "a")
    words = (f"data.root={few_images}", "trainer.batch_size=32", "run.dir=a", "seed=5", "tracking=none")
    refused = run_forked("train", *words, cwd=tmp_path, environments=ranks(1))
    assert "was made with seed=0 and this start says seed=5" in refused.stderr
    assert read_outcome(tmp_path / "a") == "done"


def test_with_other_images_the_best_error_is_theirs(saved: SavedState) -> None:
    settings, display = check_settings(_config("schedule=plateau")), Display(0)
    best = {"reductions": 1, "best_error": 0.3, "since_best": 2}
    before = replace(saved, best_error=0.3, best_step=7, left_out=[3], errors_since_line=[0, 0], schedule=best)
    with join_mesh(2, torch.device("cpu"), 60) as mesh:
        for others in (False, True):
            state = new_state(settings, mesh, 10, display)
            state.go_on_from(before, others)
            expected = (math.inf, None, (), math.inf, 0) if others else (0.3, 7, [3], 0.3, 2)
            schedule = state.schedule
            assert (state.best_error, state.best_step, state.left_out, schedule.best_error, schedule.since_best) == expected
            assert schedule.reductions == 1


def test_a_second_sweep_in_the_folder_of_the_first_is_refused(
    two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(two_runs[0], tmp_path / "sweep" / "0")
    words = ("tracking=none", f"data.root={few_images}", "run.dir=sweep", "optimizer.lr=0.5", "seed=5")
    swept = run_forked("train", "-m", *words, cwd=tmp_path)
    assert swept.returncode == 1
    assert "sweep/0 holds a job with optimizer.lr=0.01, and this one says optimizer.lr=0.5: start the sweep with" in swept.stderr
    assert json.loads((tmp_path / "sweep" / "0" / "config.json").read_text())["seed"] == 0
