"""Several nets averaged, predictions, class errors and submissions, beside what NumPy and a plain torch net make of the same."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_dist import evaluate, export, import_weights
from alexnet_dist.checks import check_settings
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.training.inputs import open_root
from tests.commands import change_state
from tests.data.test_decode import reference
from tests.forked import ranks, run_forked


def _evaluate(runs: list[Path], *words: str, cwd: Path, processes: int = 1) -> dict[str, Any]:
    command = (f"checkpoint=[{','.join(map(str, runs))}]", *words)
    done = run_forked("evaluate", *command, cwd=cwd, environments=ranks(processes))
    assert done.returncode == 0, done.stdout + done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "said": done.stdout}


@pytest.fixture(scope="module")
def averaged(two_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Both nets with ten views in two processes: the folder of its files, and its record."""
    folder = tmp_path_factory.mktemp("averaged")
    words = ("predictions=both.npz", "submission=both.txt", "per_class=both.csv", "batch_size=26")
    return folder, _evaluate([*two_runs], *words, cwd=folder, processes=2)


@pytest.fixture(scope="module")
def alone(two_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], Any]]:
    """Of each net by itself its record and its predictions."""
    folder = tmp_path_factory.mktemp("alone")
    records = [_evaluate([run], f"predictions={run.name}.npz", "per_class=true", cwd=folder) for run in two_runs]
    return [(record, np.load(folder / f"{run.name}.npz")) for run, record in zip(two_runs, records, strict=True)]


def _errors(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Top-1, top-5 and loss in NumPy."""
    places = (probabilities > probabilities[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    loss = -np.log(probabilities[np.arange(len(labels)), labels].astype(np.float64)).mean()
    return (places >= 1).mean(), (places >= 5).mean(), loss


def test_nets_of_two_tables_are_averaged_as_numpy_averages_their_predictions(
    averaged: tuple[Path, dict[str, Any]], alone: list[tuple[dict[str, Any], Any]]
) -> None:
    folder, record = averaged
    for (own, saved), each in zip(alone, record["each"], strict=True):
        assert "most often taken for" in own["said"]
        assert "red-ellipse-upright" in own["said"]
        top1, top5, loss = _errors(saved["probabilities"], saved["labels"])
        assert (own["top1_error"], own["top5_error"]) == (each["top1_error"], each["top5_error"]) == pytest.approx((top1, top5))
        assert own["loss"] == pytest.approx(loss, rel=1e-5)
    first, second = (saved["probabilities"] for _, saved in alone)
    both = np.load(folder / "both.npz")
    assert both["probabilities"].dtype == np.float32
    assert both["probabilities"].shape == (64, 8)
    np.testing.assert_allclose(both["probabilities"], (first + second) / 2, atol=1e-6)
    assert not np.allclose(first, second, atol=1e-2)
    top1, top5, loss = _errors(both["probabilities"], both["labels"])
    assert (record["top1_error"], record["top5_error"]) == pytest.approx((top1, top5))
    assert record["loss"] == pytest.approx(loss, rel=1e-5)
    assert (record["images"], record["views"], len(record["checkpoints"])) == (64, 10, 2)


def test_weights_found_on_every_second_image_are_the_best_there_and_the_others_are_reported(
    averaged: tuple[Path, dict[str, Any]], alone: list[tuple[dict[str, Any], Any]], two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    labels, names = alone[0][1]["labels"], alone[0][1]["names"]
    votes = np.stack([saved["probabilities"] for _, saved in alone]).astype(np.float64)
    record = _evaluate([*two_runs], "ensemble=found", "predictions=found.npz", "batch_size=26", cwd=tmp_path, processes=2)
    found = record["ensemble"]["weights"]
    assert record["ensemble"]["found_on_images"] == record["images"] == 32
    assert sum(found) == pytest.approx(1)

    def loss(weights: np.ndarray, part: slice) -> float:
        return _errors(np.tensordot(weights, votes, axes=1)[part], labels[part])[2]

    shares = np.linspace(0, 1, 1001)
    best = min(shares, key=lambda share: loss(np.array([share, 1 - share]), slice(0, None, 2)))
    assert found[0] == pytest.approx(best, abs=2e-3)
    others = slice(1, None, 2)
    for weights, figures in ((np.array(found), record), (np.array([0.5, 0.5]), record["equal"])):
        top1, top5, _ = _errors(np.tensordot(weights, votes, axes=1)[others], labels[others])
        assert (figures["top1_error"], figures["top5_error"]) == pytest.approx((top1, top5))
        assert figures["loss"] == pytest.approx(loss(weights, others), rel=1e-4)
    assert list(np.load(tmp_path / "found.npz")["names"]) == list(names[others])
    assert "(found on every second image, 32; the figures are of the others)" in record["said"]

    given = _evaluate([*two_runs], "ensemble=[3,1]", cwd=tmp_path)
    assert given["ensemble"] == {"weights": [0.75, 0.25], "found_on_images": 0}
    assert (given["images"], given["equal"]["loss"]) == (64, pytest.approx(averaged[1]["loss"], rel=1e-5))
    assert given["loss"] == pytest.approx(loss(np.array([0.75, 0.25]), slice(None)), rel=1e-4)


def test_the_average_is_that_of_plain_torch_nets_on_images_read_by_pillow(
    two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path
) -> None:
    _evaluate([*two_runs], "views=1", "predictions=centre.npz", cwd=tmp_path)
    saved = np.load(tmp_path / "centre.npz")
    files = sorted((few_images / "val").glob("*/*.jpg"))
    assert [str(name) for name in saved["names"]] == [str(file) for file in files]
    assert [str(saved["classes"][label]) for label in saved["labels"]] == [file.parent.name for file in files]
    crops = np.stack([reference(Image.open(file), 64, 56, 4, 4) for file in files])
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    expected = torch.zeros(64, 8)
    for run in two_runs:
        export.run({"checkpoint": str(run), "format": "torch", "output": str(tmp_path / f"{run.name}.py")})
        namespace: dict[str, Any] = {"__file__": str(tmp_path / f"{run.name}.py"), "__name__": run.name}
        exec((tmp_path / f"{run.name}.py").read_text(), namespace)
        with torch.inference_mode():
            expected += namespace["load"]()(images).softmax(dim=1) / 2
    np.testing.assert_allclose(saved["probabilities"], expected.numpy(), atol=1e-3)  # of pixels that differ by a grey level


def test_a_submission_names_the_five_best_of_each_image(averaged: tuple[Path, dict[str, Any]]) -> None:
    folder, record = averaged
    assert "numbered from 1 in their own order" in record["said"]
    lines = (folder / "both.txt").read_text().splitlines()
    saved = np.load(folder / "both.npz")
    assert len(lines) == 64
    for line, probabilities in zip(lines, saved["probabilities"], strict=True):
        numbers = [int(word) for word in line.split(" ")]
        assert len(set(numbers)) == 5
        assert all(1 <= number <= 8 for number in numbers)
        named = probabilities[[number - 1 for number in numbers]]
        assert sorted(probabilities)[-5:] == sorted(named)
        assert list(named) == sorted(named, reverse=True)


def test_class_errors_add_up_to_the_whole(averaged: tuple[Path, dict[str, Any]]) -> None:
    folder, record = averaged
    with (folder / "both.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["images"] for row in rows} == {"8"}
    assert np.mean([float(row["top1_error"]) for row in rows]) == pytest.approx(record["top1_error"], abs=1e-5)
    assert np.mean([float(row["top5_error"]) for row in rows]) == pytest.approx(record["top5_error"], abs=1e-5)
    assert [float(row["top1_error"]) for row in rows] == sorted((float(row["top1_error"]) for row in rows), reverse=True)
    saved = np.load(folder / "both.npz")
    worst = list(saved["classes"]).index(rows[0]["class"])
    taken_for = saved["probabilities"][saved["labels"] == worst].argmax(axis=1)
    other = list(saved["classes"]).index(rows[0]["confused_with"])
    assert int(rows[0]["confused"]) == (taken_for == other).sum() == np.bincount(taken_for[taken_for != worst]).max()


def test_images_of_which_others_were_set_aside_in_training_are_told(
    two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train").symlink_to(few_images / "train")
    data = check_settings(compose("train", ["data=imagenet", "data.root=images", "data.val_every=5"])).data
    shutil.copytree(two_runs[0], tmp_path / "run")
    change_state(tmp_path / "run", lambda saved: saved["config"]["data"].update(val_every=5))
    left, _ = open_root(tmp_path / "images", data)
    for told, fingerprint in ((True, None), (False, left.fingerprint())):
        if fingerprint:
            change_state(tmp_path / "run", lambda saved: saved.update(fingerprint=left.fingerprint()))
        said = _evaluate([Path("run")], "views=1", "data.root=images", cwd=tmp_path)["said"]
        assert ("warning: run/checkpoints/step-00000008 was trained while other images were set aside" in said) == told


def test_predict_says_what_evaluate_says(
    averaged: tuple[Path, dict[str, Any]], two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path
) -> None:
    saved = np.load(averaged[0] / "both.npz")
    words = (f"checkpoint=[{two_runs[0]},{two_runs[1]}]", f"images={few_images}/val/red-*/000?.jpg", "json=true")
    done = run_forked("predict", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    answers = json.loads(done.stdout)
    assert len(answers) == 32
    for answer in answers:
        probabilities = saved["probabilities"][list(saved["names"]).index(answer["image"])]
        # Pillow and the feed scale alike to one grey level.
        shares = [entry["probability"] for entry in answer["best"]]
        assert shares == sorted(shares, reverse=True) == pytest.approx(sorted(probabilities)[:-6:-1], abs=2e-3)
        for entry in answer["best"]:
            assert entry["class"] == entry["id"] == saved["classes"][entry["label"]]
            assert entry["probability"] == pytest.approx(probabilities[entry["label"]], abs=2e-3)


def test_what_cannot_be_averaged_or_written_is_refused(
    two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export.run({"checkpoint": str(two_runs[0]), "format": "caffe", "output": "x.npz"})
    classes = sorted(folder.name for folder in (few_images / "val").iterdir())
    Path("classes.txt").write_text("\n".join(classes))
    Path("others.txt").write_text("\n".join(reversed(classes)))
    for output, words in (
        ("same", ["data.size=64", "classes=classes.txt"]),
        ("others", ["data.size=64", "classes=others.txt"]),
        ("larger", ["data.size=72", "classes=classes.txt", "mean=[1,2,3]"]),
        ("bf16", ["data.size=64", "classes=classes.txt", "precision=bf16"]),
        ("one_tower", ["model.towers=1", "data.size=64", "classes=classes.txt", "weights=one_tower.npz"]),
    ):
        if output == "one_tower":
            one = Net(build_table(compose("train", ["model=tiny", "model.towers=1"])["model"]))
            one.initialise(0)
            arrays: dict[str, Any] = {name: parameter.detach().numpy() for name, parameter in one.named_parameters()}
            np.savez("one_tower.npz", mean=np.zeros((3, 64, 64), np.float32), **arrays)
        import_weights.run(compose("import_weights", ["model=tiny", "weights=x.npz", f"output={output}", *words]))
    Path("there.npz").write_text("mine")
    root = f"data.root={few_images}"
    for words, said in (
        (["checkpoint=[]"], "checkpoint is not set"),
        (["checkpoint=[same,others]"], "not in the same order"),
        (["checkpoint=[same,larger]"], "scaled to 64 and 72 pixels"),
        (["checkpoint=[same,bf16]"], "trained in fp32 and bf16: set precision="),
        (["checkpoint=[same,nowhere]"], "checkpoint=nowhere holds no checkpoint"),
        (["checkpoint=[same,one_tower]", "parallel.processes=2"], "2 processes hold nets of 2 and 1 towers differently"),
        (["checkpoint=same", "ensemble=found"], "ensemble weighs several nets"),
        (["checkpoint=[same,same]", "ensemble=[1,2,3]"], "ensemble has 3 weights for 2 nets"),
        (["checkpoint=[same,same]", "ensemble=[0,0]"], "ensemble holds a weight below 0"),
        (["checkpoint=[same,same]", "ensemble=[2,-1]"], "ensemble holds a weight below 0"),
        (["checkpoint=[same,same]", "ensemble=found", "submission=s.txt"], "a submission needs all"),
        (["checkpoint=same", "devkit=devkit.tar.gz"], "devkit numbers the classes of a submission"),
        (["checkpoint=same", "predictions=there.npz"], "there.npz is there already"),
        (["checkpoint=same", "predictions=p.csv"], "must end in .npz"),
        (["checkpoint=same", "per_class=yes.txt"], "must end in .csv"),
        (["checkpoint=same", "submission=no/where.txt"], "no folder"),
        (["checkpoint=same", "submission=p.npz", "predictions=p.npz"], "p.npz is another file's name too"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate.prepare_start(compose("evaluate", [root, *words]))
    for words in (["checkpoint=[same,bf16]", "precision=fp32"], ["checkpoint=[same,one_tower]"]):
        assert evaluate.prepare_start(compose("evaluate", [root, *words]))[0] == 1
    assert Path("there.npz").read_text() == "mine"
