"""Image files in folders: which count, and in which order. The one rule of training, evaluation, prepare and predict."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet_dist.errors import UserError

# torchvision's, whose import takes a second.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_ENDINGS = tuple(map(os.fsencode, ENDINGS))
# Folders that file servers and archivers leave beside a person's own.
LITTER = {b"@eadir", b"#recycle", b"$recycle.bin", b"__macosx", b"lost+found"}

_Folder = tuple[int, int]  # device and inode


def list_images(folder: Path, above: frozenset[_Folder] = frozenset()) -> np.ndarray:
    """The paths, from `folder` on, of the image files in it and in its subfolders: bytes [n], sorted.

    An image file has one of ENDINGS, in any case. Links are followed, except to a folder that holds the link (or one of `above`).
    What is hidden (`.x`) and LITTER is passed over. A link to nothing counts, so that reading it names it.

    Raises UserError: a folder that cannot be listed.
    """
    try:
        return np.array(sorted(_walk(os.fsencode(folder), b"", above)), dtype=np.bytes_)  # a third of what str take
    except OSError as error:
        raise _unlistable(error) from None


def list_classes(folder: Path) -> tuple[list[str], list[np.ndarray]]:
    """The class folders of a folder, by name, and the image files of each (`list_images`).

    Raises UserError: no class folder, one without images, images outside of them, or a folder that cannot be listed.
    """
    classes, loose = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # A link to nothing would have been a class: to leave it out would number the others anew.
                is_folder = entry.is_dir() or (entry.is_symlink() and not entry.is_file())
                if is_folder and not _passed_over(os.fsencode(entry.name)):
                    classes.append(entry.name)
                elif _is_image(os.fsencode(entry.name)):
                    loose.append(entry.name)
        status = os.stat(folder)
    except OSError as error:
        raise _unlistable(error) from None
    if loose:
        raise UserError(
            f"{len(loose)} images of {folder} lie in no class folder, such as {min(loose)}: put the images of each class into a "
            "folder of its own, or pack a flat val/ with `python -m alexnet_dist.prepare` and a list of its classes, val_labels="
        )
    if not classes:
        raise UserError(f"{folder} holds no class folders: put the images of each class into a folder of its own")
    classes.sort()
    files = [list_images(folder / name, frozenset({(status.st_dev, status.st_ino)})) for name in classes]
    for name, own in zip(classes, files, strict=True):
        if not len(own):
            raise UserError(
                f"the class folder {folder / name} holds no images (files that end in {', '.join(ENDINGS)}): "
                "add some or remove the folder"
            )
    return classes, files


def refuse_among_images(setting: str, folder: str, root: Path) -> None:
    """Raises UserError where `folder`, in which files are to be made, is or lies in train/ or val/ of `root`."""
    for split in (root / "train", root / "val"):
        if split.is_dir() and Path(folder).resolve().is_relative_to(split.resolve()):
            raise UserError(f"{setting}={folder} lies among the images in {split}: name a folder outside of it")


def _walk(folder: bytes, prefix: bytes, above: frozenset[_Folder]) -> Iterator[bytes]:
    status = os.stat(folder)
    own = status.st_dev, status.st_ino
    if own in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not _passed_over(entry.name):
                    yield from _walk(entry.path, prefix + entry.name + b"/", above | {own})
            elif _is_image(entry.name) and (entry.is_file() or entry.is_symlink()):
                yield prefix + entry.name


def _is_image(name: bytes) -> bool:
    return name.lower().endswith(_ENDINGS) and not _passed_over(name)


def _passed_over(name: bytes) -> bool:
    return name.startswith(b".") or name.lower() in LITTER


def _unlistable(error: OSError) -> UserError:
    return UserError(f"{os.fsdecode(error.filename)} cannot be listed ({error.strerror}): make it readable or remove it")
