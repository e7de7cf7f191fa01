"""Gather what the package needs into a folder, for a machine with Python 3.12, torch 2.11 and no network.

python -m tests.gpu.wheels                     gathers into tests/gpu/wheels/, which git ignores
python3 tests/gpu/wheels/install.py            there: joins the pieces and installs them

No file is larger than 60 MB: larger wheels are cut into pieces.
"""

import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

PIECE = 60_000_000
# What the machine has: torch with all that it needs. Torchvision is to fit that torch.
THERE = "torch"
OTHER_VERSIONS = {"torchvision": "0.26.*", "numpy": "2.3.*"}
MACHINE = ("--python-version", "3.12", "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64")
INSTALL = '''"""Join the pieces of wheels that lie here and install them, without a network and without what they may lack."""
import subprocess, sys
from pathlib import Path

here = Path(__file__).parent
for first in here.glob("*.whl.000"):
    with first.with_suffix("").open("wb") as whole:
        for piece in sorted(here.glob(first.stem + ".*")):
            whole.write(piece.read_bytes())
wheels = map(str, sorted(here.glob("*.whl")))
pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps"]
# The project itself too: its configuration lies beside the package, where only an installation finds it.
sys.exit(subprocess.call([*pip, *wheels]) or subprocess.call([*pip, "--no-build-isolation", "-e", here.parents[2]]))
'''


def needed(requirements: list[str], seen: dict[str, str]) -> dict[str, str]:
    """The packages of these requirements and of theirs, by name with their versions here; added to `seen`."""
    for line in requirements:
        requirement = Requirement(line)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": "", "python_version": "3.12"})):
            continue
        try:
            seen[name] = version(name)
        except PackageNotFoundError:  # of another platform
            continue
        needed(requires(name) or [], seen)
    return seen


def gather(folder: Path) -> Iterator[str]:
    """Download wheel after wheel; yields what it does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "install.py").write_text(INSTALL)
    setup = configparser.ConfigParser()
    setup.read("setup.cfg")
    there = needed([THERE], {})
    wanted = needed([*setup["options"]["install_requires"].split("\n")[1:], "pytest", "psutil", "setuptools"], {})
    for name, found in sorted(wanted.items()):
        if name in there and name not in OTHER_VERSIONS:
            continue
        which = f"{name}=={OTHER_VERSIONS.get(name, found)}"
        yield which
        pip = [sys.executable, "-m", "pip", "-q"]
        options = ["--no-deps", "--dest", str(folder)]
        done = subprocess.run([*pip, "download", *options, "--only-binary=:all:", *MACHINE, which], check=False)
        if done.returncode:  # there is no wheel of it, and it is of Python alone
            subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), which], check=True)
    for wheel in folder.glob("*.whl"):
        if wheel.stat().st_size > PIECE:
            cut(wheel)


def cut(wheel: Path) -> None:
    """Into pieces .000, .001 and so on, in its place."""
    with wheel.open("rb") as whole:
        for number, piece in enumerate(iter(lambda: whole.read(PIECE), b"")):
            wheel.with_name(f"{wheel.name}.{number:03}").write_bytes(piece)
    wheel.unlink()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("wheels")
    for what in gather(target):
        print(what, flush=True)
