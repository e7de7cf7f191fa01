"""Sources that are folders of images: a folder a class, Tiny-ImageNet's and Kaggle's layouts."""

from collections.abc import Mapping
from pathlib import Path

from alexnet_dist.data.class_names import read_class_names
from alexnet_dist.data.images import ANNOTATIONS, ImageFolder, open_folder, open_train
from alexnet_dist.data.listing import list_images
from alexnet_dist.data.packed import ClassName
from alexnet_dist.errors import UserError
from alexnet_dist.packing.labels import label_files, read_solution, read_val_labels
from alexnet_dist.packing.samples import Sample, Source

KAGGLE_IMAGES = Path("ILSVRC/Data/CLS-LOC")
KAGGLE_SOLUTION = "LOC_val_solution.csv"
KAGGLE_WORDS = "LOC_synset_mapping.txt"


def list_class_folders(root: Path, words: Mapping[str, str], val_labels: Path | None = None) -> Source:
    """root/train/<class>/... and, where it is there, root/val/<class>/..., or all of root/val/ with its classes in `val_labels`.

    `words` are those of a class where they are not its name. Raises UserError as data/images.py does, and where the list and the
    images do not belong together.
    """
    if val_labels is None:
        train, val = open_folder(root)
        return Source(_classes(train, words), _samples(train), _samples(val))
    train = open_train(root)
    return _with_flat_val(train, words, root / "val", read_val_labels(val_labels, train.classes), val_labels)


def list_tiny_imagenet(root: Path) -> Source:
    """Tiny-ImageNet as it comes: train/<wnid>/images/, val/images/ with val_annotations.txt, and words.txt."""
    if not (root / "val" / ANNOTATIONS).is_file():
        raise UserError(f"{root} lacks val/{ANNOTATIONS}: set root to the folder of Tiny-ImageNet that holds train/ and val/")
    return list_class_folders(root, _words(root / "words.txt"))


def list_kaggle(root: Path) -> Source:
    """Kaggle's ImageNet (CLS-LOC): ILSVRC/Data/CLS-LOC/, LOC_val_solution.csv and LOC_synset_mapping.txt."""
    images = root / KAGGLE_IMAGES
    for path in (images / "train", images / "val", root / KAGGLE_SOLUTION):
        if not path.exists():
            raise UserError(f"{root} lacks {path.relative_to(root)}: set root to where Kaggle's archive was unpacked")
    solution = read_solution(root / KAGGLE_SOLUTION)
    train = open_train(images)
    return _with_flat_val(train, _words(root / KAGGLE_WORDS), images / "val", solution, root / KAGGLE_SOLUTION)


def _with_flat_val(
    train: ImageFolder, words: Mapping[str, str], folder: Path, labels: Mapping[str, str], listed_in: Path
) -> Source:
    files = [file.decode("utf-8", "surrogateescape") for file in list_images(folder).tolist()]
    val = label_files(folder, files, labels, train.classes, listed_in)
    return Source(_classes(train, words), _samples(train), val)


def _words(path: Path) -> dict[str, str]:
    return {entry.id: entry.words for entry in read_class_names(str(path), setting="")} if path.is_file() else {}


def _classes(images: ImageFolder, words: Mapping[str, str]) -> list[ClassName]:
    return [ClassName(name, words.get(name, name)) for name in images.classes]


def _samples(images: ImageFolder) -> list[Sample]:
    return [Sample.of_file(images.file(index), label, images.name(index)) for index, label in enumerate(images.labels.tolist())]
