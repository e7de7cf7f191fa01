"""Ways to hold it wrong: each gets one sentence and status 2, without a traceback, a process left behind, or a file lost.

Most commands are forked here; a few are started as a person starts them.
"""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from alexnet_dist.launching.sentences import errors_as_sentences
from tests.commands import run_command, run_torchrun, train
from tests.forked import ranks, run_forked

SMALL = ("tracking=none", "run.report=false", "trainer.max_steps=1", "trainer.batch_size=16", "evaluation.views=1")


def _assert_sentence(done: CompletedProcess[str], *parts: str) -> None:
    said = done.stderr.strip()
    assert done.returncode == 2, f"status {done.returncode}\n{done.stdout}\n{said}"
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1, said
    for part in parts:
        assert part in said, said


def _as_rank(module: str, *words: str, cwd: Path) -> CompletedProcess[str]:
    """What the one process says that a launcher has started: the one which sees the data and the checkpoints."""
    return run_forked(module, *words, cwd=cwd, environments=ranks(1))


@pytest.fixture(scope="module")
def some_run(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("some_run")
    train(*SMALL, f"data.root={few_images}", "run.dir=run", cwd=folder)
    return folder / "run"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["data.root=/no/such/folder"], ["/no/such/folder", "data.root"]),
        (["experiment=paper"], ["data.root is not set"]),
        (["optimizer.lr=-1"], ["optimizer.lr", "greater than 0", "-1"]),
        (["optimizer.lr=fast"], ["optimizer.lr", "number", "fast"]),
        (["optimizer.lrr=1"], ["optimizer.lrr"]),
        (["+optimizer.lrr=1"], ["optimizer.lrr", "not a setting"]),
        (["model=alexnot"], ["model/alexnot", "paper"]),
        (["precision=1"], ["group of settings", "number", "model=paper"]),
        (["optimizer.lr=null"], ["optimizer.lr: a value is needed"]),
        (["+optimizer.lrr=null"], ["optimizer.lrr", "not a setting"]),
        (["trainer.profile=[1]"], ["trainer.profile", "too few"]),
        (["trainer.profile=5"], ["trainer.profile", "a list in brackets", "not 5"]),
        (["run.dir=2012"], ["run.dir: 2012 is read as a number", """write 'run.dir="2012"'"""]),
        (["run.dir=true"], ["run.dir: true is read as yes or no", """write 'run.dir="true"'"""]),
        (["run=5"], ["run: is a group of settings, not 5"]),
        (["experiment=alexnot"], ["experiment/alexnot"]),
        (["seed=[1"], ["[1"]),
        (["optimizer.lr=true"], ["optimizer.lr", "number", "True"]),
        (["optimizer.layers.conv1.lrr=1"], ["optimizer.layers.conv1.lrr", "did you mean optimizer.lr?"]),
        (["trainer.max_steps=1.5"], ["trainer.max_steps", "1.5"]),
        (["trainer.batch_size=15"], ["batch_size=15", "multiple of 2"]),
        (["trainer.native=yes"], ["trainer.native", "yes"]),
        (["parallel.wire=int8"], ["parallel.wire", "int8"]),
        (["parallel.processes=3"], ["3 processes", "1, 2, 4"]),
        (["parallel.processes=two"], ["parallel.processes", "two"]),
        (["model.layers.conv3.filters=97"], ["conv3", "97", "2 towers"]),
        (["model.layers.conv3.reads=some"], ["conv3", "some"]),
        (["+model.layers.conv3.filtres=96"], ["conv3", "filtres"]),
        (["model.input=20", "data.size=20"], ["conv", "pool"]),
        (["data.size=32"], ["data.size=32", "56"]),
        (["data.size=100000000"], ["data.size", "less than or equal to 4096"]),
        (["data.threads=100000"], ["data.threads", "less than or equal to 1024"]),
        (["parallel.threads=100000"], ["parallel.threads", "less than or equal to 1024"]),
        (["evaluation.views=3"], ["evaluation.views", "1 or 10"]),
        (["precision=tf32", "device=cpu"], ["tf32", "device=cpu"]),
        (["precision=tf32"], ["tf32", "device=cpu"]),
        (["schedule.warmup_epochs=16"], ["schedule.warmup_epochs=16", "trainer.epochs"]),
        (["schedule.warmup_from=2"], ["schedule.warmup_from", "less than or equal to 1"]),
        (["schedule.kind=polynomial"], ["schedule.epochs", "schedule=polynomial"]),
        (["optimizer=lars", "optimizer.trust=0"], ["optimizer.trust", "greater than 0"]),
        (["resume=/no/checkpoint"], ["/no/checkpoint"]),
        (["optimizer.layers.conv9.lr=0.1"], ["optimizer.layers", "conv9", "conv1, conv2"]),
        (["optimizer.layers.conv1.lr=0"], ["optimizer.layers.conv1.lr", "greater than 0"]),
        (["schedule.phases=[{epoch: 3},{epoch: 2}]"], ["schedule.phases", "3, 2"]),
    ],
    ids=lambda value: " ".join(value) if value and "=" in value[0] else "",
)
def test_a_wrong_setting_is_refused_before_anything_starts(words: list[str], parts: list[str], tmp_path: Path) -> None:
    _assert_sentence(run_forked("train", "tracking=none", "run.dir=run", *words, cwd=tmp_path), *parts)
    assert not any((tmp_path / "run").glob("[!.]*")), "nothing is written"
    assert not (tmp_path / "data").exists()


def _without(*names: str) -> Callable[[Path], object]:
    return lambda images: [shutil.rmtree(images / name) for name in names]


@pytest.mark.parametrize(
    ("spoil", "words", "parts"),
    [
        (_without("train"), ["data.root=images"], ["images has no folder train/"]),
        (_without(), ["data.root=images/train"], ["data.root=images/train has no folder train/: set data.root=images"]),
        (_without(), ["data.root=."], ["data.root=. has no folder train/: set data.root=images"]),
        (_without("val"), ["data.root=images"], ["val", "data.val_every=10"]),
        (_without(), ["data.root=images", "run.dir=images/train/x"], ["run.dir=images/train/x lies among", "in images/train"]),
        (_without("val"), ["data.root=images", "data.val_every=99"], ["data.val_every=99"]),
        (_without(), ["data.root=images", "model.layers.fc8.filters=6"], ["8 classes", "set model.layers.fc8.filters=8"]),
        (_without(), ["model.layers.fc8.filters=6"], ["8 classes", "set model.layers.fc8.filters=8"]),
        (_without(), ["data.root=images", "trainer.batch_size=400"], ["320", "400", "trainer.batch_size"]),
        (
            lambda images: (images / "train").rename(images / "train-00000-of-00001.parquet"),
            ["data.root=images"],
            ["pack them with `python -m alexnet_dist.prepare root=images"],
        ),
    ],
    ids=["no train", "train itself", "outside", "no val", "run", "val_every", "classes", "drawn classes", "batch", "parquet"],
)
def test_wrong_data_are_refused_before_anything_starts(
    spoil: Callable[[Path], object], words: list[str], parts: list[str], few_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(few_images, tmp_path / "images", symlinks=True)
    spoil(tmp_path / "images")
    _assert_sentence(run_forked("train", "tracking=none", "run.dir=run", *words, cwd=tmp_path), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_asked_for_where_there_is_none(tmp_path: Path) -> None:
    _assert_sentence(run_forked("train", "device=cuda", cwd=tmp_path), "device=cuda", "no CUDA device")


def test_a_class_without_images(few_images: Path, tmp_path: Path) -> None:
    shutil.copytree(few_images, tmp_path / "images")
    (tmp_path / "images" / "train" / "zebra").mkdir()
    _assert_sentence(run_forked("train", *SMALL, "data.root=images", cwd=tmp_path), "images/train/zebra")


def test_no_validation_images(few_images: Path, tmp_path: Path) -> None:
    shutil.copytree(few_images / "train", tmp_path / "images" / "train")
    _assert_sentence(_as_rank("train", *SMALL, "data.root=images", cwd=tmp_path), "val", "data.val_every")


def test_a_file_that_is_no_image_is_named(few_images: Path, tmp_path: Path) -> None:
    shutil.copytree(few_images, tmp_path / "images")
    bad = next((tmp_path / "images" / "train" / "blue-ellipse-flat").iterdir())
    bad.write_text("this is no JPEG")
    done = run_command("train", *SMALL, "data.root=images", cwd=tmp_path)
    _assert_sentence(done, f"images/train/blue-ellipse-flat/{bad.name}")


def test_more_classes_than_the_net_tells_apart(few_images: Path, tmp_path: Path) -> None:
    words = (*SMALL, f"data.root={few_images}", "model.layers.fc8.filters=6")
    _assert_sentence(_as_rank("train", *words, cwd=tmp_path), "8 classes", "6")


def test_a_batch_larger_than_the_data(few_images: Path, tmp_path: Path) -> None:
    words = ("tracking=none", f"data.root={few_images}", "trainer.batch_size=2000")
    _assert_sentence(_as_rank("train", *words, cwd=tmp_path), "320", "2000", "trainer.batch_size")


def test_a_checkpoint_of_another_net(some_run: Path, few_images: Path, tmp_path: Path) -> None:
    words = (*SMALL, f"data.root={few_images}", f"resume={some_run}", "model.layers.conv2.filters=32")
    _assert_sentence(_as_rank("train", *words, cwd=tmp_path), "another net", "conv2.weight")


def test_a_run_folder_that_holds_a_run_is_not_begun_anew(some_run: Path, few_images: Path, tmp_path: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in some_run.rglob("*"))
    words = (*SMALL, f"data.root={few_images}", f"run.dir={some_run}", "resume=none")
    _assert_sentence(run_forked("train", *words, cwd=tmp_path), str(some_run), "run.dir")
    assert sorted((path, path.stat().st_mtime_ns) for path in some_run.rglob("*") if path.name != ".lock") == [
        entry for entry in before if entry[0].name != ".lock"
    ]


def test_a_run_folder_in_use_by_a_live_run(some_run: Path, few_images: Path, tmp_path: Path) -> None:
    with (some_run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = (*SMALL, f"data.root={few_images}", f"run.dir={some_run}")
        _assert_sentence(run_forked("train", *words, cwd=tmp_path), str(some_run), "live run")


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    _assert_sentence(run_forked("train", *SMALL, "run.dir=file/run", cwd=tmp_path), "file/run")


def test_nowhere_to_draw_the_quick_start_s_images(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    _assert_sentence(_as_rank("train", *SMALL, cwd=tmp_path), "data/quickstart", "data.root")


def test_a_damaged_checkpoint(some_run: Path, few_images: Path, tmp_path: Path) -> None:
    shutil.copytree(some_run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000001" / ".metadata").write_bytes(b"")
    words = (*SMALL, f"data.root={few_images}", "run.dir=run")
    _assert_sentence(_as_rank("train", *words, cwd=tmp_path), "step-00000001", ".metadata is not as it was written")


def test_evaluation_without_a_checkpoint_of_nothing_and_with_other_classes(
    some_run: Path, few_images: Path, tmp_path: Path
) -> None:
    _assert_sentence(run_forked("evaluate", cwd=tmp_path), "checkpoint")
    _assert_sentence(run_forked("evaluate", "checkpoint=nowhere", cwd=tmp_path), "nowhere")
    shutil.copytree(few_images, tmp_path / "images")
    for split in ("train", "val"):
        (tmp_path / "images" / split / "blue-ellipse-flat").rename(tmp_path / "images" / split / "green-ellipse-flat")
    words = (f"checkpoint={some_run}", "data.root=images")
    _assert_sentence(_as_rank("evaluate", *words, cwd=tmp_path), "classes")
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "images" / split / "green-ellipse-flat", tmp_path / "images" / split / "zebra")
    _assert_sentence(_as_rank("evaluate", *words, cwd=tmp_path), "8 classes", "the images' 9 are others: set data.root")


def test_a_sweep_under_torchrun(tmp_path: Path) -> None:
    done = _as_rank("train", "-m", "optimizer.lr=0.1,0.2", "tracking=none", cwd=tmp_path)
    _assert_sentence(done, "a sweep (-m) cannot run under torchrun")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["features", "plan", "import_weights"])
def test_a_command_of_one_process_of_which_a_launcher_started_several(command: str, tmp_path: Path) -> None:
    done = run_forked(command, cwd=tmp_path, environments=ranks(2))
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert lines
    assert all(line.startswith("error: this command is one process, and torchrun started several of it: ") for line in lines)
    done = run_forked(command, cwd=tmp_path, environments=[{"SLURM_STEP_NUM_TASKS": "2"}])
    _assert_sentence(done, "and srun started several of it: start it without srun")


def test_a_world_size_that_does_not_fit_under_torchrun(few_images: Path, tmp_path: Path) -> None:
    done = run_torchrun(3, "train", *SMALL, f"data.root={few_images}", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: 3 processes do not fit a net of 2 towers") == 1


def test_a_compiler_that_is_asked_for_and_absent(few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    words = (*SMALL, f"data.root={few_images}", "run.dir=run")
    done = run_forked("train", *words, "trainer.native=on", cwd=tmp_path)
    _assert_sentence(done, "trainer.native=on", "no C++ compiler (no-such-compiler)")
    assert not (tmp_path / "run").exists()
    done = run_forked("train", *words, cwd=tmp_path, environments=ranks(2))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warning: there is no C++ compiler (no-such-compiler): norms and poolings") == 1


def test_a_folder_that_may_not_be_entered_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving, errors_as_sentences():  # root may enter all
        raise PermissionError(13, "Permission denied", "/scratch/other/imagenet")
    assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: /scratch/other/imagenet cannot be reached (Permission denied): ask its owner, or name another\n"


@pytest.mark.parametrize(
    ("command", "words", "parts"),
    [
        ("bench", ["count", "slices=3"], ["slices", "power of two"]),
        ("bench", ["count", "batch_size=6", "slices=4"], ["error: batch_size=6", "4 slices"]),
        ("bench", ["slices", "slices=[]"], ["slices", "at least 1 item"]),
        ("bench", ["data", "root=images", "size=5000"], ["size", "4096", "5000"]),
        ("report", ["run=images", "output=x.tex"], ["output=x.tex", ".html"]),
    ],
)
def test_other_commands_refuse_alike(
    command: str, words: list[str], parts: list[str], few_images: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").symlink_to(few_images)
    _assert_sentence(run_forked(command, *words, cwd=tmp_path), *parts)
