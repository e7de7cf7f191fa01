"""The forms in which people have their images: which one a folder holds, and what is in it."""

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal, get_args

from alexnet_dist.data.images import ANNOTATIONS
from alexnet_dist.errors import UserError
from alexnet_dist.packing.downloads import EDITIONS, list_cifar10, list_imagenette
from alexnet_dist.packing.folders import KAGGLE_IMAGES, list_class_folders, list_kaggle, list_tiny_imagenet
from alexnet_dist.packing.ilsvrc2012 import TRAIN_ARCHIVE, list_ilsvrc2012
from alexnet_dist.packing.labels import in_order_of, split_of
from alexnet_dist.packing.parquet import list_parquet, parquet_files
from alexnet_dist.packing.samples import Source
from alexnet_dist.packing.tars import list_webdataset

Form = Literal["ilsvrc2012", "kaggle", "parquet", "webdataset", "tiny_imagenet", "imagefolder", "cifar10", "imagenette"]


def recognise(root: Path) -> Form:
    """The form of what `root` holds. Raises UserError where it is none of them."""
    _check_folder(root)
    form = form_of(root)
    if form is None:
        inside = next((path for path in sorted(root.iterdir()) if path.is_dir() and form_of(path)), None)
        where = f"set root={inside}" if inside else f"name its form with source= ({', '.join(get_args(Form))}), or another root"
        raise UserError(f"{root} holds images in no form that is known: {where}")
    return form


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"root={root} is no folder: set it to the one that holds the source's files")


def form_of(root: Path) -> Form | None:
    """The form of what a folder holds, None where it is none of them."""
    if (root / TRAIN_ARCHIVE).is_file():
        return "ilsvrc2012"
    if (root / KAGGLE_IMAGES).is_dir():
        return "kaggle"
    if parquet_files(root):
        return "parquet"
    if (root / "train").is_dir():
        return "tiny_imagenet" if (root / "val" / ANNOTATIONS).is_file() else "imagefolder"
    if any(split_of(path) for path in root.glob("*.tar")):
        return "webdataset"
    if any(root.glob("cifar-10-*")):
        return "cifar10"
    return "imagenette" if any(root.glob(f"{EDITIONS['full']}*")) else None


def list_source(
    form: Form, root: Path, wants_originals: bool, pool: Executor, val_labels: str | None = None, classes: str | None = None
) -> Source:
    """List the samples under `root`; archives are listed on all of the pool's processes.

    `wants_originals` matters to Imagenette alone: which of its editions to download where none is under `root`. `val_labels` is a
    list of the validation images' classes, for an image folder; `classes` a class map, where another order is wanted.
    Raises UserError where files are missing or do not belong together.
    """
    if val_labels is not None and form != "imagefolder":
        raise UserError(f"val_labels={val_labels} is for source=imagefolder, and this is {form}: leave it out")
    if form not in ("cifar10", "imagenette", "imagefolder"):  # two make it, and one says as training does
        _check_folder(root)
    listings: dict[Form, Callable[[], Source]] = {
        "ilsvrc2012": lambda: list_ilsvrc2012(root, pool),
        "kaggle": lambda: list_kaggle(root),
        "parquet": lambda: list_parquet(root),
        "webdataset": lambda: list_webdataset(root, pool),
        "tiny_imagenet": lambda: list_tiny_imagenet(root),
        "imagefolder": lambda: list_class_folders(root, {}, Path(val_labels) if val_labels else None),
        "cifar10": lambda: list_cifar10(root),
        "imagenette": lambda: list_imagenette(root, wants_originals),
    }
    source = listings[form]()
    return in_order_of(source, classes) if classes else source
