"""ImageNet as image-net.org gives it: three archives, none of which is unpacked."""

import gzip
import io
import re
import tarfile
import zlib
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from alexnet_dist.data.packed import ClassName
from alexnet_dist.errors import UserError
from alexnet_dist.packing.samples import Sample, Source
from alexnet_dist.packing.tars import list_tar

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"
DEVKIT_ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"


def list_ilsvrc2012(root: Path, pool: Executor) -> Source:
    """The three archives; classes in the devkit's order. Raises UserError where one is missing, damaged or another's."""
    for name in (TRAIN_ARCHIVE, VAL_ARCHIVE, DEVKIT_ARCHIVE):
        if not (root / name).is_file():
            raise UserError(f"{root} lacks {name}: put the three ILSVRC2012 archives there, as image-net.org gives them")
    classes, val_labels = read_devkit(root / DEVKIT_ARCHIVE)
    labels = {entry.id: label for label, entry in enumerate(classes)}

    train_archive = root / TRAIN_ARCHIVE
    found: dict[str, tuple[int, int]] = {}
    for name, offset, length in list_tar(train_archive):
        wnid = Path(name).stem
        if wnid not in labels:
            raise UserError(f"{train_archive} holds {name}, which is no class of {DEVKIT_ARCHIVE}: get both again")
        found[wnid] = (offset, length)
    absent = [entry.id for entry in classes if entry.id not in found]
    if absent:
        raise UserError(f"{train_archive} lacks {len(absent)} classes, the first being {absent[0]}: get it again")
    places = zip(*((train_archive, *found[entry.id]) for entry in classes), strict=True)
    listings = pool.map(list_tar, *places, chunksize=4)
    train = [
        Sample(f"{entry.id}/{Path(name).name}", label, str(train_archive), offset, length)
        for label, (entry, listing) in enumerate(zip(classes, listings, strict=True))
        for name, offset, length in listing
    ]

    val_archive = root / VAL_ARCHIVE
    members = sorted((Path(name).name, offset, length) for name, offset, length in list_tar(val_archive))
    if len(members) != len(val_labels):
        raise UserError(
            f"{val_archive} holds {len(members)} images and {DEVKIT_ARCHIVE} the ground truth of {len(val_labels)}: "
            "get both again"
        )
    val = []
    for name, offset, length in members:
        number = re.fullmatch(r"ILSVRC2012_val_(\d+)\.JPEG", name)
        if number is None or not 1 <= int(number[1]) <= len(val_labels):
            raise UserError(f"{val_archive} holds {name}, which has no line in the devkit's ground truth: get both again")
        val.append(Sample(name, val_labels[int(number[1]) - 1], str(val_archive), offset, length))
    return Source(classes, train, val)


def read_devkit(path: Path) -> tuple[tuple[ClassName, ...], list[int]]:
    """The classes in the order of ILSVRC2012_ID, and the labels (that id less one) of the validation images by number.

    Raises UserError where the archive is not the devkit of ILSVRC2012.
    """
    import scipy.io

    meta, ground_truth = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
    files: dict[str, bytes] = {}
    try:
        # Read to its end, where the sum of all bytes stands: a flipped bit would give other labels.
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(path.read_bytes()))) as devkit:
            for member in devkit:
                for wanted in (meta, ground_truth):
                    if member.name.endswith(wanted) and (extracted := devkit.extractfile(member)) is not None:
                        files[wanted] = extracted.read()
        synsets = np.atleast_1d(scipy.io.loadmat(io.BytesIO(files[meta]), squeeze_me=True)["synsets"])
        leaves = sorted(
            (int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"])) for row in synsets if not row["num_children"]
        )
        labels = [int(line) - 1 for line in files[ground_truth].split()]
    except (tarfile.TarError, zlib.error, OSError, EOFError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not the devkit of ILSVRC2012 ({error}): get it again") from None
    if [number for number, _, _ in leaves] != list(range(1, len(leaves) + 1)):
        raise UserError(f"the classes in {path} are not numbered from 1 on: get it again")
    if any(not 0 <= label < len(leaves) for label in labels):
        raise UserError(f"the ground truth in {path} names a class that it does not describe: get it again")
    return tuple(ClassName(wnid, words) for _, wnid, words in leaves), labels
