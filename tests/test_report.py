"""A run stopped and resumed three times, and what is made of its folder: the page in a real browser, and one W&B run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import CHROMIUM, Browser, chromium
from tests.commands import read_metrics, read_wandb, train
from tests.forked import run_forked

STOPS = (7, 12, 18, 26)  # steps; an epoch has 5
WORDS = ("trainer.batch_size=64", "trainer.log_every=2", "evaluation.batch_size=200", "evaluation.views=1", "run.dir=run")


@pytest.fixture(scope="module")
def resumed(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was started four times; the last left figures and a report."""
    folder = tmp_path_factory.mktemp("resumed")
    for stop in STOPS:
        report = f"run.report={'true' if stop == STOPS[-1] else 'false'}"
        words = (*WORDS, f"data.root={few_images}", f"trainer.max_steps={stop}", "tracking=wandb", report)
        done = train(*words, cwd=folder)
    assert "report: run/report.html" in done.stdout
    upload, last = done.stdout.splitlines()[-2:]
    assert "upload it with: wandb sync" in upload
    assert re.search(r"; weights [0-9a-f]{12}$", last)
    return folder / "run"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: install the package chromium")
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def test_a_run_that_ends_leaves_figures_and_a_small_page(resumed: Path) -> None:
    names = {path.name for path in (resumed / "figures").iterdir()}
    assert names == {
        *("curves.svg", "step_time.svg", "kernels.svg", "kernels.png", "predictions.webp", "neighbours.webp"),
        *("step.svg", "confusion.svg", "filters.png", "maps.webp", "examples.json"),
    }
    assert (resumed / "report.html").stat().st_size < 1_000_000


@pytest.mark.parametrize("width", [390, 1100, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_reads_well_in_a_browser(resumed: Path, browser: Browser, width: int, scheme: str) -> None:
    page = browser.show((resumed / "report.html").as_uri(), width, scheme)
    assert page.said == []
    assert page.requests == [(resumed / "report.html").as_uri()], "it asks for nothing but itself"
    pictures = page.ask(
        "[...document.images].map(i => [i.alt, i.complete && i.naturalWidth, "
        "(i.closest('.scroll') ?? i).getBoundingClientRect().width])"
    )
    assert len(pictures) == 6 + 8 + 5 * 7  # the figures, the predictions, five images with six neighbours
    for alt, natural, shown in pictures:
        assert natural > 0, alt
        assert 0 < shown < width, alt
    assert page.ask("document.documentElement.scrollWidth") <= width, "it does not scroll sideways"
    assert (
        page.ask("Math.min(...[...document.querySelectorAll('p, td, li, b')].map(e => parseFloat(getComputedStyle(e).fontSize)))")
        >= 12
    )
    tops = page.ask("[...document.querySelectorAll('.shown > div')].map(e => e.getBoundingClientRect().top)")
    assert len({tops.count(top) for top in tops}) == 1, "no picture stands alone in the last row"
    if width >= 1100:
        tops = page.ask("[...document.querySelectorAll('.tile')].map(e => e.getBoundingClientRect().top)")
        assert len(set(tops)) == 1, "no figure stands alone in the last row"
    light = page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


def test_the_page_says_what_the_files_say(resumed: Path) -> None:
    page = re.sub(r"<[^>]+>", " ", (resumed / "report.html").read_text())
    last = read_metrics(resumed)[-1]
    assert f"{100 * last['top1_error']:.2f} %" in page
    for start, stop in zip((0, *STOPS), STOPS, strict=False):
        assert re.search(rf"{start}\s+{stop}\s+done", page), "a row for each start"
    assert "trainer.max_steps=26" in page, "the overrides of the start that its configuration is of"
    assert "32x3x7x7" in page


def test_where_the_images_are_gone_the_page_says_so_and_goes_on(resumed: Path, tmp_path: Path) -> None:
    shutil.copytree(resumed, tmp_path / "run", ignore=shutil.ignore_patterns("wandb", "examples.json"))
    done = run_forked("report", "run=run", "data.root=/no/such/folder", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "top-1 error" in done.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Predictions, neighbours and confusion need the images: the images are not there" in page
    assert "Loss and validation error against epochs" in page


def _run_read_only(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command beside a folder that it cannot write, whoever it is run by."""
    mounted = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", mounted, str(folder), sys.executable, "-m", *command]
    return subprocess.run(words, cwd=folder.parent, capture_output=True, text=True, check=False)


@pytest.mark.skipif(subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0, reason="no namespaces of mounts")
def test_of_a_folder_that_cannot_be_written_the_page_and_the_wandb_run_stand_elsewhere(resumed: Path, tmp_path: Path) -> None:
    shutil.copytree(resumed, tmp_path / "run", symlinks=True)
    for command in ("report", "track"):
        refused = _run_read_only(tmp_path / "run", f"alexnet_dist.{command}", "run=run")
        assert refused.returncode == 2
        assert "cannot be written" in refused.stderr
        assert "output" in refused.stderr
    done = _run_read_only(tmp_path / "run", "alexnet_dist.report", "run=run", "output=there/x.html", "data.root=/no/such/folder")
    assert done.returncode == 0, done.stderr
    assert "Kept from step 26" in (tmp_path / "there" / "x.html").read_text(), "what was kept in the run's folder is found"
    assert (tmp_path / "there" / "x-figures" / "curves.svg").is_file()
    done = _run_read_only(tmp_path / "run", "alexnet_dist.track", "run=run", "output=there")
    assert done.returncode == 0, done.stderr
    (recorded,) = (tmp_path / "there" / "wandb").glob("offline-run-*")
    run = _wandb_run(recorded)
    assert run["name"] == "run"
    assert run["id"] not in {_wandb_run(part)["id"] for part in (resumed / "wandb").glob("offline-run-*")}, (
        "those may be uploaded"
    )


def test_classes_may_be_named_in_any_bytes(few_images: Path, tmp_path: Path) -> None:
    names = ("Käfer".encode("latin-1"), "金魚".encode(), b"plain")
    for split in ("train", "val"):
        for name, folder in zip(names, sorted((few_images / split).iterdir()), strict=False):
            (tmp_path / "images" / split).mkdir(parents=True, exist_ok=True)
            os.symlink(folder, os.path.join(os.fsencode(tmp_path / "images"), split.encode(), name))
    words = ("data.source=imagefolder", "data.root=images", "trainer.max_steps=2", "evaluation.views=1", "run.dir=run")
    done = train(*words, "run.report=true", "parallel.processes=1", cwd=tmp_path)
    assert "report: run/report.html" in done.stdout
    assert done.stderr == "", "no warnings"
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<h3>K\N{REPLACEMENT CHARACTER}fer</h3>" in page
    assert "金魚" in page
    done = run_forked("evaluate", "checkpoint=run", "per_class=true", "parallel.processes=1", "views=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "金魚" in done.stdout


def test_a_report_of_what_is_no_run_and_of_nothing(tmp_path: Path) -> None:
    for words, parts in (
        ((), ["run=", "sweep="]),
        (("run=nowhere",), ["nowhere", "config.json"]),
        (("sweep=nowhere",), ["nowhere"]),
        (("sweep=nowhere", "layer=conv2"), ["layer is for the page of one run"]),
    ):
        done = run_forked("report", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
        for part in parts:
            assert part in done.stderr
    assert not list(tmp_path.iterdir())


def test_stopped_and_resumed_the_parts_are_of_one_wandb_run(resumed: Path) -> None:
    parts = [_wandb_run(part) for part in sorted((resumed / "wandb").glob("offline-run-*"))]
    assert len(parts) == len(STOPS)
    assert len({part["id"] for part in parts}) == 1


def test_rebuilt_it_is_one_wandb_run_without_a_gap_or_a_repeated_step(resumed: Path, tmp_path: Path) -> None:
    shutil.copytree(resumed, tmp_path / "run", symlinks=True)
    own = {_wandb_run(part)["id"] for part in (resumed / "wandb").glob("offline-run-*")}
    done = run_forked("track", "run=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (rebuilt,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert done.stdout.splitlines()[-1].endswith(f"wandb sync {rebuilt.relative_to(tmp_path)}")
    run = _wandb_run(rebuilt)
    assert {run["id"]} == own, "nothing of it has been uploaded, so it keeps its id"
    assert len(list((tmp_path / "run" / "wandb" / "replaced").iterdir())) == len(STOPS)

    records = read_metrics(resumed)
    train_steps = [record["step"] for record in records if record["kind"] == "train"]
    assert train_steps == list(range(2, STOPS[-1] + 1, 2))
    assert [row["step"] for row in run["history"] if "train/loss" in row] == train_steps
    assert [row["train/loss"] for row in run["history"] if "train/loss" in row] == [
        r["loss"] for r in records if r["kind"] == "train"
    ]
    assert [row["_step"] for row in run["history"]] == sorted({record["step"] for record in records})
    assert run["history"][0]["_timestamp"] == pytest.approx(records[0]["time"])

    assert run["config"]["optimizer"]["lr"] == 0.01
    assert "trainer.max_steps=26" in run["config"]["run"]["overrides"]
    for tower in (0, 1):
        assert [row[f"tower{tower}/crossing_exposed_seconds"] for row in run["history"] if "train/loss" in row] == [
            record["towers"]["crossing_exposed_seconds"][tower] for record in records if record["kind"] == "train"
        ]
        (validated,) = [row for row in run["history"] if row["step"] == 25]
        assert validated[f"tower{tower}/conv1/weight"] > 0
        assert validated[f"tower{tower}/fc8/update"] > 0
    assert run["summary"]["train/loss"]["min"] == min(record["loss"] for record in records if record["kind"] == "train")
    assert run["summary"]["train/images_per_second"]["max"] == max(
        r["images_per_second"] for r in records if r["kind"] == "train"
    )

    shown = run["history"][-1]
    for name in ("kernels", "filters", "predictions", "maps", "neighbours"):
        assert shown[f"figures/{name}"]["_type"] == "image-file"
        assert (rebuilt / "files" / shown[f"figures/{name}"]["path"]).stat().st_size > 0
    table = json.loads((rebuilt / "files" / shown["figures/prediction_table"]["path"]).read_text())
    assert table["columns"][:4] == ["image", "name", "label", "right"]
    assert len(table["data"]) == 8
    assert len(json.loads((rebuilt / "files" / shown["figures/neighbour_table"]["path"]).read_text())["data"]) == 5 * 6


def test_with_artifacts_wandb_keeps_the_checkpoints_and_the_report(resumed: Path, tmp_path: Path) -> None:
    shutil.copytree(resumed, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    done = run_forked("track", "run=run", "artifacts=true", "tags=[a,b]", "group=some", "name=mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (rebuilt,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    run = _wandb_run(rebuilt)
    assert (run["name"], run["group"], run["job_type"], run["tags"]) == ("mine", "some", "train", ["a", "b"])
    kept = [(artifact["type"], set(artifact["aliases"])) for artifact in run["artifacts"] if artifact["type"] != "run_table"]
    # W&B moves `latest` to the last of a name.
    assert kept == [
        ("model", {"latest", "best", "step-00000025"}),
        ("model", {"latest", "step-00000026"}),
        ("report", {"latest"}),
    ]


def test_a_dead_network_stops_nothing(resumed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(resumed, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    done = run_forked("track", "run=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "W&B cannot be reached" in done.stdout
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 1


def test_without_wandb_nothing_of_it_is_loaded_or_left_nor_torch_s_compiler(few_images: Path, tmp_path: Path) -> None:
    run = (
        "import sys; from alexnet_dist.launching.commands import compose; from alexnet_dist import train; "
        "train.run(compose('train', sys.argv[1:])); print({'torch._dynamo', 'wandb'} & sys.modules.keys())"
    )
    words = ("tracking=none", "run.dir=run", f"data.root={few_images}", "trainer.max_steps=2", "evaluation.views=1")
    done = subprocess.run([sys.executable, "-c", run, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert "report: run/report.html" in done.stdout
    assert not list(tmp_path.rglob("*wandb*"))


def _wandb_run(folder: Path) -> dict[str, Any]:
    """An offline W&B run, read by W&B's own protocol buffers."""
    (recorded,) = folder.glob("*.wandb")
    run: dict[str, Any] = {"history": [], "config": {}, "summary": {}, "artifacts": []}
    for record in read_wandb(recorded):
        if record.HasField("run"):
            told = record.run
            run |= {"id": told.run_id, "name": told.display_name, "group": told.run_group, "job_type": told.job_type}
            run["tags"] = list(told.tags)
        for update in (*record.run.config.update, *record.config.update):
            _put(run["config"], update)
        for update in record.summary.update:
            _put(run["summary"], update)
        if record.HasField("history"):
            run["history"].append(row := {})
            for item in record.history.item:
                _put(row, item)
        if record.HasField("artifact"):
            run["artifacts"].append({"type": record.artifact.type, "aliases": list(record.artifact.aliases)})
    return run


def _put(values: dict[str, Any], item: Any) -> None:
    """A value of W&B's into its place, under one key or several nested ones."""
    *above, last = item.nested_key or [item.key]
    for key in above:
        values = values.setdefault(key, {})
    values[last] = json.loads(item.value_json)
