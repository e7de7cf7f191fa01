"""The commands as people start them, on real images in real processes."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.commands import read_metrics, read_tensors, read_wandb, run_command, run_torchrun, train
from tests.forked import ranks, run_forked

SHORT = ("trainer.max_steps=20", "trainer.batch_size=32", "evaluation.batch_size=96")


@pytest.fixture(scope="module")
def quick_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a first start with no data at all, cut short; with W&B, offline."""
    folder = tmp_path_factory.mktemp("quick_start")
    done = run_command("train", *SHORT, "run.report=false", cwd=folder)
    assert done.returncode == 0, done.stderr
    (run_dir,) = (folder / "runs").iterdir()
    assert f"done: checkpoints, metrics.jsonl and the rest are in runs/{run_dir.name}" in done.stdout
    assert "upload it with: wandb sync" in done.stdout
    return folder


def test_the_first_start_makes_its_images_and_leaves_a_record(quick_start: Path) -> None:
    assert len(list((quick_start / "data/quickstart/train").glob("*/*.jpg"))) == 8 * 200
    (run_dir,) = (quick_start / "runs").iterdir()
    records = read_metrics(run_dir)
    assert [(record["kind"], record["step"]) for record in records] == [("train", 10), ("train", 20), ("val", 20)]
    for record in records[:2]:
        assert record["images_per_second"] > 0
        # One tower sends its maps before conv3, fc6, fc7 and fc8, and as many gradients: 64*6*6, 64*2*2 / 2 ... floats an image.
        assert record["crossing_bytes"] == 2 * 32 * 4 * (32 * 6 * 6 + 32 * 2 * 2 + 128 + 128)
        assert 0 < record["crossing_exposed_seconds"] < record["step_seconds"]
    assert (records[2]["images"], records[2]["views"]) == (400, 10)
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["latest", "step-00000020"]
    assert not list(quick_start.glob("outputs")), "Hydra leaves no folders of its own"
    assert sorted(path.name for path in quick_start.iterdir()) == ["data", "runs"]


def test_one_offline_wandb_run_holds_the_configuration_and_the_figures(quick_start: Path) -> None:
    (recorded,) = (quick_start / "runs").glob("*/wandb/offline-run-*/*.wandb")
    history: list[dict[str, object]] = []
    config: dict[str, str] = {}
    for record in read_wandb(recorded):
        if record.HasField("history"):
            items = record.history.item
            history.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
        config.update({update.key: update.value_json for update in record.run.config.update})
    (run_dir,) = (quick_start / "runs").iterdir()
    losses = [record["loss"] for record in read_metrics(run_dir) if record["kind"] == "train"]
    assert [row["train/loss"] for row in history if "train/loss" in row] == losses
    assert [row["val_10_views/images"] for row in history if "val_10_views/images" in row] == [400]
    assert json.loads(config["optimizer"])["lr"] == 0.01


def test_evaluation_counts_every_image_once_for_any_number_of_processes(quick_start: Path) -> None:
    (run_dir,) = (quick_start / "runs").iterdir()
    closing = read_metrics(run_dir)[-1]
    results = []
    for processes, batch in ((1, 128), (2, 70), (4, 48)):
        words = (f"checkpoint={run_dir}", "views=10", f"batch_size={batch}")
        if processes == 2:
            done = run_torchrun(processes, "evaluate", *words, cwd=quick_start)
        else:
            done = run_forked("evaluate", *words, cwd=quick_start, environments=ranks(processes))
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    for result in results:
        assert result["kind"] == "val"
        assert (result["images"], result["views"], result["step"]) == (400, 10, 20)
        assert result["loss"] == pytest.approx(closing["loss"], rel=1e-5)
        assert result["top1_error"] == pytest.approx(closing["top1_error"], abs=1 / 400)


def test_evaluation_on_other_images_of_the_same_classes(quick_start: Path, tmp_path: Path) -> None:
    for folder in (quick_start / "data/quickstart/train").iterdir():
        for split, files in (("train", slice(0, 3)), ("val", slice(3, 10))):
            (tmp_path / "some" / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[files]:
                shutil.copy(file, tmp_path / "some" / split / folder.name)
    (run_dir,) = (quick_start / "runs").iterdir()
    done = run_command("evaluate", f"checkpoint={run_dir}", "data.root=some", "views=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["images"] == 8 * 7


def test_a_sweep_gives_each_job_its_processes_and_folder(few_images: Path, tmp_path: Path) -> None:
    words = (*SHORT, f"data.root={few_images}", "evaluation.views=1", "trainer.max_steps=10", "tracking=wandb")
    done = run_command("train", "-m", *words, "run.report=false", "optimizer.lr=0.01,0.001", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in sweep.iterdir()) == ["0", "1", "multirun.yaml"]
    configs = [json.loads((sweep / job / "config.json").read_text()) for job in "01"]
    assert [config["optimizer"]["lr"] for config in configs] == [0.01, 0.001]
    assert {config["tracking"]["group"] for config in configs} == {sweep.name}
    assert [config["tracking"]["name"] for config in configs] == ["0 optimizer.lr=0.01", "1 optimizer.lr=0.001"]
    assert [read_metrics(sweep / job)[0]["lr"] for job in "01"] == [0.01, 0.001]

    done = run_forked("report", f"sweep={sweep}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "optimizer.lr=0.001" in done.stdout
    page = (sweep / "report.html").read_text()
    errors = [f"{100 * read_metrics(sweep / job)[-1]['top1_error']:.2f} %" for job in "01"]
    for told in (*errors, "<code>optimizer.lr=0.01</code>", "<code>optimizer.lr=0.001</code>", "Kernels of 0", "Kernels of 1"):
        assert told in page
    assert "data.root" not in page, "only what differs is told"


def test_bf16_trains_and_keeps_its_parameters_in_fp32(few_images: Path, tmp_path: Path) -> None:
    train(*SHORT, f"data.root={few_images}", "precision=bf16", "evaluation.views=1", "run.dir=run", cwd=tmp_path)
    tensors = read_tensors(tmp_path / "run")
    assert {tensor.dtype for name, tensor in tensors.items() if name.startswith(("net.", "momentum."))} == {torch.float32}
    first, second = (record for record in read_metrics(tmp_path / "run") if record["kind"] == "train")
    assert first["crossing_bytes"] == 32 * 4 * (32 * 6 * 6 + 32 * 2 * 2 + 128 + 128)  # half of fp32's
    assert second["loss"] < 3


@pytest.mark.parametrize("model", ["paper", "net145", "cifar10", "tiny"])
def test_a_model_s_table_is_printed(model: str, tmp_path: Path) -> None:
    done = run_forked("model", f"model={model}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout
    assert "conv3" in done.stdout
    assert not list(tmp_path.iterdir())
