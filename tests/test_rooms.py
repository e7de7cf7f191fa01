"""The package's rooms import one way: downwards."""

import ast
import re
from pathlib import Path

import alexnet_dist

PACKAGE = Path(alexnet_dist.__file__).parent
# From the ground up. What stands on no floor is a command, above all of them: the files at the top and the benches.
FLOORS = (
    {"__version__", "dali", "errors", "files", "text"},
    {"model", "parallel", "kernels"},
    {"fields", "settings", "checks", "data", "packing", "formats"},
    {"training", "results", "tracking", "launching"},
    {"figures", "planning"},
)


def _floor(room: str) -> int:
    return next((floor for floor, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def _imports() -> set[tuple[str, str, str]]:
    """File, its room, a room that it imports. A `__main__.py` is a door to a room and no part of it."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE)
        for node in ast.walk(ast.parse(file.read_text())) if name.stem != "__main__" else ():
            match node:
                case ast.ImportFrom(module="alexnet_dist", names=names):
                    modules = [f"alexnet_dist.{alias.name}" for alias in names]
                case ast.ImportFrom(module=str(module)):
                    modules = [module]
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case _:
                    modules = []
            rooms = [module.split(".")[1] for module in modules if module.startswith("alexnet_dist.")]
            found |= {(str(name), name.parts[0].removesuffix(".py"), room) for room in rooms}
    return found


def test_every_room_imports_from_its_own_floor_and_those_below() -> None:
    assert {(file, above) for file, room, above in _imports() if _floor(above) > _floor(room)} == set()


def test_the_net_and_the_processes_know_nothing_of_each_other() -> None:
    assert {(file, other) for file, room, other in _imports() if {room, other} == {"model", "parallel"}} == set()


def test_the_environment_is_read_where_processes_are_started_and_nowhere_else() -> None:
    files = (file for file in PACKAGE.rglob("*.py") if re.search(r"\b(environ|getenv)\b", file.read_text()))
    assert {file.relative_to(PACKAGE).parts[0] for file in files} == {"launching", "parallel"}
