"""The command line's overrides: which a sweep varies, which have another name now, and what other launchers understand."""

import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

from alexnet_dist.errors import UserError

RENAMED = {
    "trainer.compile": "trainer.native",
    "tracking.signals": "tracking.activity",
    "resume.allow": "resume_allow",
}


def refuse_old_names(words: Sequence[str]) -> None:
    """Raises UserError for an override of a setting that has another name now."""
    for word in words:
        name = word.lstrip("+~").partition("=")[0]
        if name in RENAMED:
            raise UserError(f"{name} is called {RENAMED[name]} now: give {RENAMED[name]}=...")


def with_layers_added(words: Sequence[str]) -> list[str]:
    """The words with `optimizer.layers.conv1.lr=0.1` as Hydra wants what no file names: with ++ before it."""
    return [f"++{word}" if word.startswith("optimizer.layers.") else word for word in words]


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
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    swept = {word.key_or_group for word in OverridesParser.create().parse_overrides(words) if word.is_sweep_override()}
    return [word for word in overrides if word.lstrip("+~").partition("=")[0] in swept] or list(overrides)
