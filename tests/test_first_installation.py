"""What README and docs tell a reader to type starts on README's first installation, which has no extra."""

import ast
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import alexnet_dist

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "conf").rglob("*.yaml"))]
COMMAND = re.compile(r"(?:-m |alexnet-dist )((?:alexnet_dist\.bench [a-z]+)|alexnet_dist\.[\w.]+|(?<=alexnet-dist )[a-z_]+)")
# Of the extras; `formats.arrays.need` names the extra where such a package is missing.
SAID = {"safetensors", "onnx", "onnxruntime", "pyarrow"}

# Answers `--help` for each command, in processes forked from one that lacks what an installation without extras lacks.
START = """
import os, runpy, sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)
absent = set(sys.argv[1].split(","))
sys.meta_path[:] = map(Hiding, sys.meta_path)
import alexnet_dist.train, alexnet_dist.report
for command in sys.argv[2:]:
    if not os.fork():
        module, *words = command.split()
        sys.argv = [module, *words, "--help"]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.wait()[1]) not in ((2,) if command == "alexnet_dist.launching.sweep_job" else (0,)):
        sys.exit(f"{command} --help ends with an error")
"""


def _commands() -> list[str]:
    named = {found for page in PAGES for found in COMMAND.findall(page.read_text())}
    return sorted({name if name.startswith("alexnet_dist") else f"alexnet_dist {name}" for name in named})


def _installed_without_extras() -> set[str]:
    """The distributions that `pip install alexnet-dist` brings, by their canonical names."""
    found: set[str] = set()
    waiting = [Requirement("alexnet-dist")]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found:
            continue
        found.add(name)
        for needed in map(Requirement, distribution(name).requires or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                waiting.append(needed)
    return found


@pytest.fixture(scope="module")
def absent() -> set[str]:
    """The modules of this environment that are not there without extras."""
    there = _installed_without_extras()
    return {
        module
        for module, distributions in packages_distributions().items()
        if not {canonicalize_name(name) for name in distributions} & there and module.isidentifier()
    }


@pytest.mark.slow
def test_every_command_of_the_docs_starts_without_extras(absent: set[str]) -> None:
    assert {"pytest", "psutil", "onnx"} <= absent
    assert not {"torch", "wandb", "hydra"} & absent
    commands = _commands()
    assert {"alexnet_dist.train", "alexnet_dist.bench step", "alexnet_dist train"} <= set(commands)
    words = [sys.executable, "-c", START, ",".join(sorted(absent)), *commands]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_imported_that_an_installation_without_extras_lacks(absent: set[str]) -> None:
    imported: dict[str, str] = {}
    for file in Path(alexnet_dist.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            imported |= {name.partition(".")[0]: file.name for name in names}
    assert {name: file for name, file in imported.items() if name in absent - SAID} == {}
