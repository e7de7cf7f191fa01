"""Every experiment file composes, is a table that can be, and trains."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from alexnet_dist import train as train_command
from alexnet_dist.checks import check_settings
from alexnet_dist.errors import UserError
from alexnet_dist.figures.published import PUBLISHED
from alexnet_dist.launching.commands import CONFIGURATION, compose
from alexnet_dist.launching.overrides import accepted
from alexnet_dist.training.update import Schedule
from tests.commands import read_metrics
from tests.distributed.processes import run_processes
from tests.forked import run_forked

CONF = Path(__file__).parents[1] / "conf"
EXPERIMENTS = sorted(str(path.relative_to(CONF / "experiment").with_suffix("")) for path in (CONF / "experiment").rglob("*.yaml"))
# What is cut from the 224-pixel nets for two steps: most parameters lie in their full connections.
NARROW = ("model.layers.fc6.filters=64", "model.layers.fc7.filters=64")
TWO_STEPS = (
    *("tracking=none", "run.report=false", "trainer.max_steps=2", "trainer.batch_size=4", "trainer.log_every=1"),
    "evaluation.views=1",
)


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of six images to train on and one to validate on."""
    root = tmp_path_factory.mktemp("few") / "images"
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 1)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / split / name / f"{number}.jpg")
    return root


# Parameters and multiply-adds an image. conv2 and fc6 of `towers_apart` are so wide that neither number moves much.
@pytest.mark.parametrize(
    ("experiment", "parameters", "multiply_adds"),
    [
        ("paper", 60_965_224, 724_406_816),
        ("net145", 60_965_224, 724_406_816),
        ("no_lrn", 60_965_224, 724_406_816),
        ("no_overlap", 60_965_224, 724_406_816),
        ("no_dropout", 60_965_224, 724_406_816),
        ("large_batch", 60_965_224, 724_406_816),
        ("one_gpu", 59_798_312, 391_514_384),
        ("towers_apart", 60_714_408, 724_323_872),
        ("net147", 60_965_224, 105_415_200 + 256 * 1200 * 26**2 + (149_520_384 + 112_140_288) + 256 * 1728 * 11**2 + 58_621_952),
        ("net148", 60_965_224, 724_406_816),
        ("net145_half", 59_798_312, 391_514_384),
        ("net150", 60_714_408, 724_323_872),
        ("net146", 60_965_224 + 256 * (256 * 9 + 1), 724_406_816 + 36 * 256 * 256 * 9),
        ("sixth_conv", 60_965_224 + 256 * (256 * 9 + 1), 724_406_816 + 36 * 256 * 256 * 9),
        ("tiny_imagenet", 2_938_340, 50_549_760),
        ("small/no_lrn", 2_938_340, 50_549_760),
        ("small/no_overlap", 2_938_340, 50_549_760),
        ("small/no_dropout", 2_938_340, 50_549_760),
        ("small/no_colour", 2_938_340, 50_549_760),
        ("small/tanh", 2_938_340, 50_549_760),
        ("small/no_conv4", 2_938_340 - 192 * (96 * 9 + 1), 50_549_760 - 49 * 192 * 96 * 9),
        ("small/sixth_conv", 2_938_340 + 128 * (128 * 9 + 1), 50_549_760 + 9 * 128 * 128 * 9),
        ("small/one_gpu", 2_635_620, 26_440_192),
        ("small/towers_apart", 2_945_088, 50_776_192),
        ("finetune", 60_965_224, 724_406_816),
        ("figure1", 32 * 76 + 32 * 801 + 64 * 801 + 10 * 1025, 32 * 75 * 1024 + 32 * 800 * 256 + 64 * 800 * 64 + 10 * 1024),
        ("cifar10", 64 * 76 + 64 * 801 + 128 * 1601 + 10 * 2049, 64 * 75 * 1024 + 64 * 800 * 256 + 128 * 1600 * 64 + 20480),
    ],
)
def test_an_experiment_composes_and_its_table_has_the_size_it_should(
    experiment: str, parameters: int, multiply_adds: int
) -> None:
    begun = ["init_from=runs/x"] if experiment == "finetune" else []
    settings = check_settings(compose("train", [f"experiment={experiment}", "data.root=images", *begun]))
    assert (settings.table().parameters, settings.table().multiply_adds) == (parameters, multiply_adds)


@pytest.fixture
def composed() -> Iterator[Callable[..., DictConfig]]:
    """Hydra's composition with its interpolations unresolved, and under `hydra` what was chosen of each group."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module(CONFIGURATION, version_base="1.3"):
        yield lambda name, *words: hydra.compose(name, overrides=list(words), return_hydra_config=True)


@pytest.mark.parametrize("command", sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "quiet"))
def test_a_command_keeps_the_values_of_the_choices_that_it_is_given(command: str, composed: Callable[..., DictConfig]) -> None:
    groups = [group for group in composed(command).hydra.runtime.choices if group != "experiment" and (CONF / group).is_dir()]
    files = {group: sorted((CONF / group).rglob("*.yaml")) for group in groups}
    for number in range(max(map(len, files.values()), default=0)):
        chosen = {group: paths[number % len(paths)] for group, paths in files.items()}
        words = {group: path.relative_to(CONF / group).with_suffix("") for group, path in chosen.items()}
        got = hydra.compose(command, overrides=[f"{group}={choice}" for group, choice in words.items()])
        for group, path in chosen.items():
            assert got[group] == _values_of(path), (group, words[group])


@cache
def _values_of(path: Path) -> Any:
    """What a choice of a group says, within `composed`."""
    own = OmegaConf.load(path)
    if "defaults" not in own:
        return own
    name = str(path.relative_to(CONF).with_suffix(""))
    return OmegaConf.select(hydra.compose(name, return_hydra_config=True), ".".join(path.parent.relative_to(CONF).parts))


def test_the_steps_are_those_of_the_authors_run() -> None:
    # layer-params-145.cfg: "epoch 25: set epsw to 0.001 from 0.01", "epoch 51: ... to 0.0001", "epoch 79: ... to 0.00001"
    settings = check_settings(compose("train", ["experiment=paper", "schedule=steps", "data.root=images"]))
    schedule = Schedule(settings.schedule, settings.optimizer.lr)
    rates = [schedule.learning_rate(epoch) for epoch in (0, 24.9, 25, 50.9, 51, 78.9, 79, 90)]
    assert rates == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_no_experiment_is_left_out_above() -> None:
    (marks,) = test_an_experiment_composes_and_its_table_has_the_size_it_should.pytestmark  # type: ignore[attr-defined]
    assert sorted(case[0] for case in marks.args[1]) == EXPERIMENTS
    assert set(PUBLISHED) <= set(EXPERIMENTS)


def test_what_an_ablation_leaves_out_is_gone() -> None:
    def kinds(experiment: str, *words: str) -> set[str]:
        table = check_settings(compose("train", [f"experiment={experiment}", "data.root=images", *words])).table()
        return {operation.kind for layer in table.layers for operation in layer.then}

    def crossings(experiment: str) -> list[str]:
        table = check_settings(compose("train", [f"experiment={experiment}", "data.root=images"])).table()
        return [layer.name for layer in table.layers if layer.crossing_bytes]

    assert kinds("no_lrn") == {"identity", "relu", "max_pool", "dropout"}
    assert kinds("net148") == {"identity", "relu", "max_pool", "dropout"}
    assert kinds("no_dropout") == {"identity", "relu", "max_pool", "response_norm"}
    assert crossings("paper") == ["conv3", "fc6", "fc7", "fc8"]
    assert crossings("sixth_conv") == ["conv3", "conv6", "fc6", "fc7", "fc8"]
    assert crossings("towers_apart") == crossings("net150") == ["fc8"]
    assert crossings("one_gpu") == []
    no_overlap = check_settings(compose("train", ["experiment=no_overlap", "data.root=images"])).table()
    assert [layer.out_size for layer in no_overlap.layers[:5]] == [27, 13, 13, 13, 6]


@pytest.mark.parametrize("experiment", ["sixth_conv", "no_lrn", "no_overlap", "one_gpu", "towers_apart", "net145", "net146"])
def test_an_experiment_about_one_net_is_refused_with_another(experiment: str) -> None:
    with pytest.raises(UserError, match=rf"experiment={experiment} .* cannot have model=caffe: leave model= out"):
        check_settings(compose("train", [f"experiment={experiment}", "model=caffe", "data.root=images"]))


def test_a_layer_s_rate_is_an_override_as_any_other() -> None:
    words = accepted(["optimizer.layers.conv1.lr=0.1", "optimizer.layers.fc8.freeze=true"])
    layers = check_settings(compose("train", words)).optimizer.layers
    assert {name: (own.lr, own.freeze) for name, own in layers.items()} == {"conv1": (0.1, None), "fc8": (None, True)}
    finetuning = ["experiment=finetune", "init_from=x", "data.root=images"]
    finetune = check_settings(compose("train", [*finetuning, *words])).optimizer.layers
    assert (finetune["fc8"].lr, finetune["fc8"].freeze, finetune["conv1"].lr) == (10, True, 0.1)


def test_the_net_as_it_was_run_can_be_trained_as_published() -> None:
    settings = check_settings(compose("train", ["experiment=paper", "model=net145", "data.root=images"]))
    assert (settings.table().name, settings.experiment) == ("net145", None)


def _train_two_steps(experiments: list[str], images: str, runs: str) -> None:
    for experiment in experiments:
        cut = NARROW if experiment not in ("figure1", "cifar10") else ()
        words = (f"experiment={experiment}", f"data.root={images}", f"run.dir={runs}/{experiment}", *cut, *TWO_STEPS)
        train_command.run(compose("train", list(words)))


# The others differ from these in numbers of their tables and schedules alone.
TRAINED = ["paper", "net146", "net147", "one_gpu", "large_batch", "figure1", "cifar10"]


def test_experiments_train_two_steps(few_images: Path, tmp_path: Path) -> None:
    run_processes(_train_two_steps, 1, TRAINED, str(few_images), str(tmp_path))
    for experiment in TRAINED:
        records = read_metrics(tmp_path / experiment)
        assert [(record["kind"], record["step"]) for record in records] == [("train", 1), ("train", 2), ("val", 2)], experiment
        assert all(math.isfinite(record["loss"]) for record in records), experiment
        assert (tmp_path / experiment / "checkpoints" / "latest").read_text().strip() == "step-00000002"


def test_the_ablations_are_a_sweep(few_images: Path, tmp_path: Path) -> None:
    words = (f"data.root={few_images}", "run.dir=sweep", *NARROW, *TWO_STEPS, "trainer.batch_size=2", "trainer.max_steps=1")
    done = run_forked("train", "-m", "experiment=no_lrn,one_gpu", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no_lrn: 2 towers in 2 processes" in done.stdout
    assert "one_gpu: 1 tower in 1 process," in done.stdout
    assert [read_metrics(tmp_path / "sweep" / job)[-1]["kind"] for job in "01"] == ["val", "val"]
