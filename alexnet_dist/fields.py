"""The kinds of values that settings have, and how a configuration is checked against a class of them."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from alexnet_dist.errors import UserError
from alexnet_dist.text import as_word

strict = ConfigDict(extra="forbid", allow_inf_nan=False)

Checked = TypeVar("Checked")
Positive = Annotated[int, Field(gt=0)]
Threads = Annotated[int, Field(gt=0, le=1024)]
Pixels = Annotated[int, Field(gt=0, le=4096)]
Fraction = Annotated[float, Field(ge=0, lt=1, strict=True)]
AboveZero = Annotated[float, Field(gt=0, strict=True)]
NotNegative = Annotated[float, Field(ge=0, strict=True)]


def _not_empty(path: str) -> str:
    if not path.strip():
        raise PydanticCustomError("empty", "is empty, as a variable that is not set would leave it: name a path, or leave it out")
    return path


def _power_of_two(count: int) -> int:
    if count & (count - 1):
        raise PydanticCustomError("power", "must be a power of two, such as 1, 2, 4 or 8")
    return count


FilePath = Annotated[str, AfterValidator(_not_empty)]
PowerOfTwo = Annotated[int, Field(gt=0), AfterValidator(_power_of_two)]


def check(kind: type[Checked], config: Mapping[str, Any]) -> Checked:
    """The configuration as an instance of a settings class.

    Raises:
        UserError: an unknown or missing key, a value of the wrong kind or out of bounds; the first one is named.
    """
    try:
        return TypeAdapter(kind).validate_python(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if str(part) in _names(config, first["loc"]))
        needed = f"a value is needed: give {where}=..."
        plain = {
            "missing": needed if isinstance(first["input"], Mapping) else "has too few values",
            "unexpected_keyword_argument": f"is not a setting of this program{_suggestion(where, config)}",
            "empty": first["msg"],
            "tuple_type": f"input should be a list in brackets, such as [{first['input']}], not {first['input']!r}",
            "dataclass_type": f"is a group of settings, not {first['input']!r}",
        }
        wrong = needed if first["input"] is None else f"{first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}"
        if first["type"] == "string_type" and isinstance(first["input"], int | float):
            said, what = str(first["input"]), "a number"
            if isinstance(first["input"], bool):
                said, what = said.lower(), "yes or no"
            wrong = f"{said} is read as {what}: to have it as a text write {as_word(where, said)}"
        message = plain.get(first["type"], wrong)
        raise UserError(f"{where}: {message}") from None


def named(value: str | Sequence[str] | None, setting: str, what: str) -> list[str]:
    """The one or several that a setting names. Raises UserError where it names nothing."""
    if not value:
        raise UserError(f"{setting} is not set: name {what} with {setting}=...")
    return [value] if isinstance(value, str) else list(value)


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The single settings of a configuration, as overrides name them."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def names_of(config: Mapping[str, Any], before: str = "") -> list[str]:
    """What a configuration has names for, groups and settings, as overrides name them."""
    names = []
    for key, value in config.items():
        names += [f"{before}{key}", *(names_of(value, f"{before}{key}.") if isinstance(value, Mapping) else ())]
    return names


def _suggestion(name: str, config: Mapping[str, Any]) -> str:
    group = f"{name.partition('.')[0]}."
    near = [other for other in names_of(config) if other.startswith(group) and not f"{name}.".startswith(f"{other}.")]
    close = get_close_matches(name, near, n=1)
    return f": did you mean {close[0]}?" if close else ""


def _names(config: Mapping[str, Any], location: tuple[int | str, ...]) -> set[str]:
    """The parts of an error's location that are keys or positions of the configuration, not names of types tried."""
    found: set[str] = set()
    node: Any = config
    for part in location:
        if isinstance(node, Mapping):
            found.add(str(part))
            node = node.get(part) if part in node else None
        elif isinstance(node, (list, tuple)) and isinstance(part, int) and part < len(node):
            found.add(str(part))
            node = node[part]
    return found
