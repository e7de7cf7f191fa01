"""The command line's overrides: which a sweep varies, which have another name now, and what other launchers understand."""

import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from alexnet_dist.errors import UserError, reason_of
from alexnet_dist.text import as_word, hydra_value

RENAMED = {
    "trainer.compile": "trainer.native",
    "tracking.signals": "tracking.activity",
    "resume.allow": "resume_allow",
}

# Hydra's own flags that have a value.
_FLAGS = ("--config-path", "--config-name", "--package", "--info", "--experimental-rerun", "--cfg")


def accepted(words: Sequence[str]) -> list[str]:
    """A command line as Hydra wants it: flags first; `--seed=1`, as W&B's agent gives it, without the dashes; and what no file
    names, `optimizer.layers.conv1.lr=0.1`, with ++ before it. Raises UserError for a setting that has another name now."""
    plain = [
        word[2:] if word.startswith("--") and "=" in word and word.partition("=")[0] not in _FLAGS else word
        for word in _with_search_path(words)
    ]
    for name in (word.lstrip("+~").partition("=")[0] for word in plain):
        if name in RENAMED:
            raise UserError(f"{name} is called {RENAMED[name]} now: give {RENAMED[name]}=...")
    if "hydra/launcher=submitit_slurm" in plain and not shutil.which("srun"):
        raise UserError("hydra/launcher=submitit_slurm: there is no srun here: start it where sbatch works, or leave it out")
    for word in filter(_is_override, plain):
        if "=" in word:
            _refuse_what_hydra_cannot_read(word)
    # argparse, which Hydra reads the line with, takes no overrides on both sides of a flag.
    return [f"++{word}" if word.startswith("optimizer.layers.") else word for word in sorted(plain, key=_is_override)]


def _is_override(word: str) -> bool:
    return word.startswith("~") or ("=" in word and not word.startswith("-"))


def _with_search_path(words: Sequence[str]) -> list[str]:
    """`--config-dir` as the override that does the same, which all launchers hand on. Raises UserError for what is no folder."""
    kept: list[str] = []
    folder = ""
    rest = iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            folder = value or next(rest, "")
            if not Path(folder).is_dir() or not folder:
                raise UserError(f"--config-dir {folder} is no folder: name the one that holds model/, experiment/ and the like")
        else:
            kept.append(word)
    return [*kept, f"hydra.searchpath=[{hydra_value(f'file://{Path(folder).absolute()}')}]"] if folder else kept


def _refuse_what_hydra_cannot_read(word: str) -> None:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException as error:
        name, _, value = word.partition("=")
        if value.startswith("~"):
            raise UserError(f"{word}: a shell leaves ~ as it is behind =: write {name}=$HOME{value[1:]}") from None
        if re.match(r"[\[{('\"]|\w+\(", value):  # a list, a function and the like, where quotes would make a text of it
            raise UserError(f"{word} is not as Hydra has it: {reason_of(error)}") from None
        raise UserError(
            f"{word} has a character in its value that Hydra reads only in quotes, and the shell takes those away unless they "
            f"are quoted too: write {as_word(name, value)}"
        ) from None


def with_sweep_folder(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """A sweep's words, with a `run.dir` of all jobs as Hydra's folder too: what Hydra leaves of the sweep is then beside them.
    And that folder, where there is one.

    Raises UserError where that cannot be made or written, or is a single run's.
    """
    folders = [word for word in words if word.startswith("run.dir=")]
    if not {"-m", "--multirun"} & set(words) or not folders:
        return list(words), None
    given = OverridesParser.create().parse_override(folders[-1])
    if given.is_sweep_override():
        return list(words), None
    folder = Path(str(given.value()))
    if folder.is_file():
        raise UserError(f"{folders[-1]} is a file: name a folder for the sweep's runs")
    if (folder / "config.json").exists():
        raise UserError(f"{folders[-1]} is the folder of a single run: name another for the sweep's runs")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folders[-1]} cannot be made or written ({error.strerror}): name another folder") from None
    return [*words, f"hydra.sweep.dir={folders[-1].partition('=')[2]}"], folder


def overrides_under(launcher: str) -> list[str]:
    """The overrides of a process that `launcher` started. Raises UserError for what makes no sense there."""
    for word in sys.argv[1:]:
        if word in ("-m", "--multirun"):
            raise UserError(
                f"a sweep ({word}) cannot run under {launcher}, whose processes are those of one run: start the sweep with "
                "plain python -m, and each of its jobs starts its own processes"
            )
        if word.startswith("-"):
            raise UserError(f"{word} is not understood under {launcher}: give Hydra overrides such as seed=1")
    return sys.argv[1:]


def swept_overrides(overrides: Sequence[str]) -> list[str]:
    """Of a sweep job's overrides those to which the command line gives several values; all, where it was started by another
    (submitit) and names none."""
    words = OverridesParser.create().parse_overrides(list(filter(_is_override, sys.argv[1:])))
    swept = {word.key_or_group for word in words if word.is_sweep_override()}
    return [word for word in overrides if word.lstrip("+~").partition("=")[0] in swept] or list(overrides)
