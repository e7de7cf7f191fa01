"""How a source tells its classes: numbers beside the images, lists of files, a class map."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from alexnet_dist.data.class_names import read_class_names
from alexnet_dist.data.packed import ClassName
from alexnet_dist.errors import UserError
from alexnet_dist.packing.samples import Sample, Source

_WNID = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?!\d)")
_SPLIT = re.compile(r"(?:^|[-_.])(train|val|valid|validation)[-_.]")


def split_of(path: Path) -> str:
    """`train` or `val` by a file's name, such as validation-00000-of-00014.parquet; empty where it is neither."""
    found = _SPLIT.search(path.name.lower())
    return "" if found is None else "train" if found[1] == "train" else "val"


def from_numbers(root: Path, train: Sequence[Sample], val: Sequence[Sample], words: Sequence[str] = ()) -> Source:
    """A source whose images have numbers for labels; `words` are the classes' by number, where there are any.

    Where the files' names tell each class's WordNet id (n01440764_10026.JPEG), the classes are in the order of these.

    Raises UserError: a label that is none or that no training image has, or labels that disagree with the names.
    """
    ids: dict[int, str] = {}
    for sample in chain(train, val):
        if sample.label < 0:
            raise UserError(f"{root}: {sample.name} has the label {sample.label}, which is none: leave its file out")
        for wnid in _WNID.findall(sample.name):
            if ids.setdefault(sample.label, wnid) != wnid:
                raise UserError(
                    f"{root}: the labels disagree with the names of the images: {sample.name} has the label {sample.label}, as "
                    f"images of {ids[sample.label]} have: get the files again, all of one edition"
                )
    trained = {sample.label for sample in train}
    count = max(len(words), 1 + max(sample.label for sample in chain(train, val)))
    if words and len(words) < count:
        raise UserError(f"{root} has an image with the label {count - 1} and names of {len(words)} classes: get the files again")
    if len(trained) < count:
        absent = next(label for label in range(count) if label not in trained)
        raise UserError(f"{root} has no training image with the label {absent}, of {count} classes: get the files that lack")
    if len(ids) < count:
        names = words or [str(label) for label in range(count)]
        return Source([ClassName(name, name) for name in names], train, val)
    if len(set(ids.values())) < count:
        twice = next(wnid for wnid in ids.values() if list(ids.values()).count(wnid) > 1)
        raise UserError(f"{root}: the labels disagree with the names of the images: {twice} has two labels: get the files again")
    classes = [ClassName(ids[label], words[label] if words else ids[label]) for label in range(count)]
    return Source(classes, train, val).in_order(sorted(classes, key=lambda entry: entry.id))


def in_order_of(source: Source, path: str) -> Source:
    """The source with its classes in the order of a class map, a text file with a class a line (`read_class_names`).

    Classes that have nothing but a number are called as its lines are, unless these are such numbers too. Raises UserError where
    its classes are others.
    """
    entries = read_class_names(path)
    own = {entry.id: entry.words for entry in source.classes}
    wanted = {entry.id for entry in entries}
    if list(own) == [str(label) for label in range(len(own))] and len(entries) == len(own) and wanted != set(own):
        return Source(entries, source.train, source.val)
    if lacking := [name for name in own if name not in wanted]:
        raise UserError(f"classes={path} lacks {lacking[0]}, a class of the source: give each of its {len(own)} classes a line")
    if unknown := [entry.id for entry in entries if entry.id not in own]:
        raise UserError(f"classes={path} names {unknown[0]}, which is no class of the source: take that line out")
    return source.in_order([ClassName(entry.id, own[entry.id]) if entry.words == entry.id else entry for entry in entries])


def read_val_labels(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """The class of each validation image by its name, from lines of a name and a label; a label is a class's name or its number.

    Raises UserError: the file cannot be read, a line of it is none, or an image has two classes.
    """
    found: dict[str, str] = {}
    numbered = all(name.isdecimal() for name in classes)  # then a number is a name, and nothing else
    of_words = re.compile(rf"\s({'|'.join(re.escape(name) for name in classes if len(name.split()) > 1) or '$.'})\s*$")
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        *name, label = line.rsplit(maxsplit=1)
        if ending := of_words.search(line):
            name, label = [line[: ending.start()].strip()], ending[1]
        if not numbered and label.isdecimal() and label not in classes and int(label) < len(classes):
            label = classes[int(label)]
        if not name or label not in classes:
            raise UserError(
                f"val_labels={path}, line {number}: there must be a file and its class (a folder of train/, or a number "
                f"below {len(classes)}) with a space between, not {line!r}"
            )
        if found.setdefault(Path(name[0]).name, label) != label:
            raise UserError(f"val_labels={path}, line {number}: {name[0]} has another class above: leave one of the lines out")
    return found


def read_solution(path: Path) -> dict[str, str]:
    """The class of each validation image by its name without ending, from Kaggle's LOC_val_solution.csv.

    Raises UserError: the file cannot be read or is another, or an image has two classes.
    """
    rows = csv.DictReader(_lines(path))
    if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
        raise UserError(f"{path} lacks the columns ImageId and PredictionString: put Kaggle's LOC_val_solution.csv there")
    found: dict[str, str] = {}
    for row in rows:
        label = (row["PredictionString"] or "").split(" ")[0]
        if found.setdefault(row["ImageId"], label) != label:
            raise UserError(f"{path} gives {row['ImageId']} two classes, {found[row['ImageId']]} and {label}: leave one line")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): put a text file there") from None


def label_files(
    folder: Path, files: Iterable[str], labels: Mapping[str, str], classes: Sequence[str], listed_in: Path
) -> list[Sample]:
    """The image files of a folder with the classes that a list gives them by name, with or without its ending.

    Raises UserError: an image that is not in the list, an entry without its image, a class that is none of `classes`.
    """
    label_of = {name: label for label, name in enumerate(classes)}
    left = dict(labels)
    samples = []
    for file in files:
        path = Path(file)
        name = next((name for name in (path.name, path.stem) if name in left), None)
        if name is None:
            raise UserError(f"{folder / file} is not in {listed_in}: both must be of one edition")
        if left[name] not in label_of:
            raise UserError(f"{listed_in} gives {name} the class {left[name]!r}, which the training images do not have")
        samples.append(Sample.of_file(file, label_of[left.pop(name)], str(folder / file)))
    if left:
        raise UserError(f"{listed_in} names {len(left)} images that {folder} lacks, such as {next(iter(left))}: get them again")
    return samples
