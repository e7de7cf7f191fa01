"""What a configuration may not say, in any command."""

import copy
import sys

import pytest

from alexnet_dist import prepare
from alexnet_dist.bench.data import BenchDataSettings
from alexnet_dist.bench.step import BenchStepSettings
from alexnet_dist.errors import UserError
from alexnet_dist.evaluate import EvaluateSettings
from alexnet_dist.export import ExportSettings
from alexnet_dist.fields import check
from alexnet_dist.figures.figure1 import Figure1Settings
from alexnet_dist.import_weights import ImportSettings
from alexnet_dist.launching.commands import compose
from alexnet_dist.predict import PredictSettings
from alexnet_dist.report import ReportSettings
from alexnet_dist.settings import Settings
from alexnet_dist.track import TrackSettings

PATHS = {
    "train": (Settings, ["data.root", "run.dir", "resume", "init_from"]),
    "evaluate": (EvaluateSettings, ["checkpoint", "per_class", "predictions", "submission", "devkit", "data.root"]),
    "predict": (PredictSettings, ["checkpoint", "images"]),
    "report": (ReportSettings, ["run", "sweep", "output", "bench", "data.root"]),
    "track": (TrackSettings, ["run", "sweep"]),
    "export": (ExportSettings, ["checkpoint", "output"]),
    "import_weights": (ImportSettings, ["weights", "output", "classes", "mean"]),
    "figure1": (Figure1Settings, ["sweep", "output"]),
    "bench_data": (BenchDataSettings, ["root", "output"]),
    "bench_step": (BenchStepSettings, ["output"]),
}


@pytest.mark.parametrize("command", PATHS)
def test_an_empty_path_is_refused(command: str) -> None:
    kind, paths = PATHS[command]
    composed = compose(command, [])
    for path in paths:
        config = copy.deepcopy(composed)
        group, _, key = path.rpartition(".")
        (config[group] if group else config)[key] = ""
        if kind is ImportSettings:
            config = {key: config[key] for key in ImportSettings.__dataclass_fields__}
        with pytest.raises(UserError, match=rf"^{path}: is empty, as a variable that is not set would leave it: name a path"):
            check(kind, config)


def test_an_empty_path_among_several_is_refused() -> None:
    with pytest.raises(UserError, match=r"^checkpoint"):
        check(EvaluateSettings, compose("evaluate", ["checkpoint=[runs/a,'']"]))


@pytest.mark.parametrize("key", ["root", "output", "verify"])
def test_prepare_refuses_an_empty_path(key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare", "source=imagefolder", "root=a", "output=b", f"{key}="])
    with pytest.raises(SystemExit, match="2"):
        prepare.main()
    assert capsys.readouterr().err.startswith(f"error: {key}: is empty")
