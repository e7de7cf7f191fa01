"""A command line's words: those with another name now, those that Hydra cannot take, one's own configuration, lines to copy."""

import shlex
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from alexnet_dist import evaluate, train
from alexnet_dist.launching.overrides import accepted
from alexnet_dist.text import as_word
from tests.forked import run_forked

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("launcher", [{}, {"RANK": "0", "WORLD_SIZE": "2"}], ids=["plain", "torchrun"])
@pytest.mark.parametrize(
    ("word", "now"),
    [
        ("trainer.compile=off", "trainer.native"),
        ("+tracking.signals=true", "tracking.activity"),
        ("resume.allow=[seed]", "resume_allow"),
    ],
)
def test_an_old_name_is_refused_and_the_new_one_told(
    word: str, now: str, launcher: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "seed=1", word])
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        train.main()
    old = word.lstrip("+").partition("=")[0]
    assert capsys.readouterr().err == f"error: {old} is called {now} now: give {now}=...\n"


def test_so_it_is_in_other_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", "trainer.compile=off"])
    with pytest.raises(SystemExit, match="2"):
        evaluate.main()
    assert "is called trainer.native now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("data.root=~/x", "write data.root=$HOME/x"),
        ("data.root=/data/Käfer", """write 'data.root="/data/Käfer"'"""),
        ("run.dir=runs/lr=0.1", """write 'run.dir="runs/lr=0.1"'"""),
        ("data.root=/a/Copy (1)", """write 'data.root="/a/Copy (1)"'"""),
        ("data.root=/a/b(1)/c d", """write 'data.root="/a/b(1)/c d"'"""),
        ("optimiser.lr=1", "did you mean optimizer.lr?"),
        ("batch_size=32", "did you mean trainer.batch_size?"),
        ("+optimizer.lrr=1", "did you mean optimizer.lr?"),
        ("--config-dir=nowhere", "--config-dir nowhere is no folder"),
    ],
)
def test_what_hydra_cannot_take_is_named_with_its_remedy(word: str, remedy: str, tmp_path: Path) -> None:
    done = run_forked("train", word, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"error: {word.lstrip('+').partition('=')[0]}")
    assert said.endswith(remedy) or "nowhere" in remedy
    assert remedy in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["runs/lr=0.1", "/data/Käfer", "a b", 'quotes" and (all)', "it's", "plain/path-1.0"])
def test_a_path_in_a_line_to_copy_is_read_back_as_it_was(path: str) -> None:
    (word,) = shlex.split(as_word("run.dir", path))
    assert OverridesParser.create().parse_override(word).value() == path


def test_a_folder_of_one_s_own_configuration_is_read_under_every_launcher(tmp_path: Path) -> None:
    (tmp_path / "my conf" / "experiment").mkdir(parents=True)
    (tmp_path / "my conf" / "experiment" / "mine.yaml").write_text("# @package _global_\noptimizer:\n  lr: -0.25\n")
    for environment in ({}, {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}):
        for words in (["--config-dir", "my conf"], ["--config-dir=my conf"]):
            done = run_forked("train", *words, "experiment=mine", cwd=tmp_path, environments=[environment])
            assert done.stderr == "error: optimizer.lr: input should be greater than 0, not -0.25\n"
    done = run_forked("launching.sweep_job", "1", "--config-dir=my conf", "experiment=mine", "seed=1,2", cwd=tmp_path)
    *kept, handed_on = done.stdout.splitlines()
    assert kept == ["experiment=mine", "seed=2"]
    assert OverridesParser.create().parse_override(handed_on).value() == [f"file://{tmp_path}/my conf"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: [\n", "mine.yaml, line 2: "),
        (b"kind: constant\n\tx: 1\n", "mine.yaml, line 2: "),
        (b"kind: constant\nkind: plateau\n", "mine.yaml, line 2: found duplicate key kind"),
        (b"# \xff\n", "not UTF-8"),
    ],
)
def test_a_file_of_one_s_own_that_is_no_yaml_is_a_sentence(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "own" / "schedule").mkdir(parents=True)
    (tmp_path / "own" / "schedule" / "mine.yaml").write_bytes(text)
    done = run_forked("train", "--config-dir", "own", "schedule=mine", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr


def test_a_group_that_a_command_has_no_choices_of_is_named(tmp_path: Path) -> None:
    done = run_forked("evaluate", "data=quickstart", "checkpoint=run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: data has no choices in this command: set what it holds")


def test_a_sweep_s_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    done = run_forked("train", "-m", "run.dir=/proc/x", "seed=1,2", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: run.dir=/proc/x cannot be made or written (No such file or directory): name another folder\n"


def test_flags_stand_anywhere_between_overrides(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = run_forked("train", "seed=7", "--config-dir", "mine", "~tracking", "--cfg", "job", "model=figure1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    composed = OmegaConf.create(done.stdout)
    assert (composed.seed, composed.model.name) == (7, "figure1")
    assert "tracking" not in composed
    assert accepted(["seed=1,2", "-m", "optimizer.lr=1"]) == ["-m", "seed=1,2", "optimizer.lr=1"]


def test_submitit_without_slurm_is_a_sentence(tmp_path: Path) -> None:
    words = ("-m", "hydra/launcher=submitit_slurm", "seed=1,2")
    done = run_forked("train", *words, cwd=tmp_path, environments=[{"PATH": ""}])
    assert done.returncode == 2
    assert done.stderr.startswith("error: hydra/launcher=submitit_slurm: there is no srun here: ")
    assert not list(tmp_path.iterdir())


def test_a_refused_sweep_leaves_no_folder(tmp_path: Path) -> None:
    done = run_forked("train", "-m", "optimizer.lrr=1,2", cwd=tmp_path)
    assert done.stderr == "error: optimizer.lrr is no setting: did you mean optimizer.lr?\n"
    done = run_forked("train", "-m", "optimizer.lr=-1,-2", cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "0 of 2 jobs done, 2 failed: 0 optimizer.lr=-1; 1 optimizer.lr=-2"
    done = run_forked("train", "data.root=.", cwd=tmp_path)
    assert done.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("mine")
    done = run_forked("train", "-m", "optimizer.lr=0.1,0.2", "run.dir=file", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: run.dir=file is a file: name a folder for the sweep's runs\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    done = run_forked("train", "-m", "optimizer.lr=0.1,0.2", "run.dir=run", cwd=tmp_path)
    assert (done.returncode, done.stderr.split(":")[1]) == (2, " run.dir=run is the folder of a single run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json"]


def test_the_scripts_for_slurm_are_written_where_the_user_works(tmp_path: Path) -> None:
    done = run_forked("launching.scripts", cwd=tmp_path)
    assert sorted(done.stdout.split()) == ["slurm/sweep.sbatch", "slurm/train.sbatch"]
    for script in ("train.sbatch", "sweep.sbatch"):
        assert (tmp_path / "slurm" / script).read_bytes() == (ROOT / "slurm" / script).read_bytes()
    assert run_forked("launching.scripts", cwd=tmp_path).stderr.startswith("error: slurm/")
