"""Small sources that the tests of `prepare` make: photographs, odd files, an ILSVRC2012 of a few classes, folders."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from alexnet_dist.data.odd_files import decode
from alexnet_dist.data.packed import SPLITS, PackedImages
from alexnet_dist.data.statistics import Sums
from alexnet_dist.fields import check
from alexnet_dist.packing.output_folder import begin, locked, publish
from alexnet_dist.packing.shards import make_shard, read_record
from alexnet_dist.packing.sources import list_source
from alexnet_dist.prepare import PrepareSettings, plan_shards, what_it_is_made_of
from tests.forked import run_forked

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


def photo(seed: int, width: int = 80, height: int = 60) -> Image.Image:
    """A smooth RGB picture with some grain, another for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    grain = rng.integers(-6, 7, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}) | options)
    return buffer.getvalue()


def ycck_jpeg(image: Image.Image) -> bytes:
    """Adobe's YCCK: inverted inks, the first three of them as YCbCr; Pillow writes CMYK, so the planes go in as such."""
    inks = Image.fromarray(255 - np.asarray(image)).convert("YCbCr")
    planes = np.dstack([255 - np.asarray(inks), np.zeros(inks.size[::-1], np.uint8)])
    data = bytearray(encoded(Image.frombytes("CMYK", image.size, planes.tobytes())))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def enormous_jpeg() -> bytes:
    """A small JPEG whose header says 60000 x 60000."""
    data = bytearray(encoded(photo(1)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (60000).to_bytes(2, "big") * 2
    return bytes(data)


# An orientation that no decoder of JPEGs looks for there.
XMP_TURNED = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def odd_but_good(image: Image.Image) -> dict[str, tuple[bytes, Image.Image]]:
    """Files that are not plain JPEGs, each with the RGB picture that it shows."""
    grey = image.convert("L")
    palette = image.quantize(64)
    sixteen_bit = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    alpha = Image.linear_gradient("L").resize(image.size)
    see_through, grey_alpha = image.copy(), grey.copy()
    see_through.putalpha(alpha)
    grey_alpha.putalpha(alpha)
    white = Image.new("RGB", image.size, "white")
    over_white = Image.composite(image, white, alpha)
    holes = np.where(np.asarray(palette)[..., None] < 20, 255, np.asarray(palette.convert("RGB"))).astype(np.uint8)
    lying = Image.Exif()
    lying[0x0112] = 6
    broken_exif = encoded(image, exif=b"Exif\0\0" + b"\xff" * 40)
    return {
        "cmyk": (encoded(image.convert("CMYK")), image),
        "ycck": (ycck_jpeg(image), image),
        "grey": (encoded(grey), grey.convert("RGB")),
        "progressive": (encoded(image, progressive=True), image),
        "png": (encoded(image, "PNG"), image),
        "png16": (encoded(sixteen_bit, "PNG"), grey.convert("RGB")),
        "palette": (encoded(palette, "PNG"), palette.convert("RGB")),
        "alpha": (encoded(see_through, "PNG"), over_white),
        "alphatiff": (encoded(see_through, "TIFF"), over_white),
        "alphawebp": (encoded(see_through, "WEBP", lossless=True, exact=True), over_white),
        "greyalpha": (encoded(grey_alpha, "PNG"), Image.composite(grey.convert("RGB"), white, alpha)),
        "holes": (encoded(palette, "PNG", transparency=bytes([0] * 20)), Image.fromarray(holes)),
        "turned": (encoded(image.transpose(Image.Transpose.ROTATE_90), exif=lying), image),
        "brokenexif": (broken_exif, image),
        "xmp": (encoded(image, xmp=XMP_TURNED), image),
        "tiff32": (encoded(Image.fromarray(np.asarray(grey).astype(np.int32)), "TIFF"), grey.convert("RGB")),
        "gif": (encoded(palette, "GIF"), palette.convert("RGB")),
    }


def unusable() -> dict[str, tuple[bytes, str]]:
    """Files that hold no whole image, each with a word of the reason."""
    whole = encoded(photo(2))
    return {
        "empty": (b"", "empty"),
        "text": (b"<html>404 not found</html>", "not an image"),
        "truncated": (whole[: len(whole) // 2], "truncated"),
        "enormous": (enormous_jpeg(), "enormous"),
    }


def write_tar(path: Path, members: Mapping[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


def tar_bytes(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def write_ilsvrc2012(
    root: Path, train: Mapping[str, Mapping[str, bytes]], val: Sequence[tuple[bytes, str]], words: Mapping[str, str]
) -> None:
    """The three archives; the order of `words` (WordNet id to words) is that of the devkit's ids."""
    root.mkdir(parents=True, exist_ok=True)
    write_tar(root / "ILSVRC2012_img_train.tar", {f"{wnid}.tar": tar_bytes(train[wnid]) for wnid in sorted(train)})
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(val) + 1)]
    # The real archive is not in order either.
    write_tar(root / "ILSVRC2012_img_val.tar", {name: data for name, (data, _) in reversed([*zip(names, val, strict=True)])})
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images"]
    synsets = np.zeros((len(words) + 1, 1), [(field, object) for field in fields])
    for row, (wnid, text) in enumerate(words.items()):
        synsets[row, 0] = (float(row + 1), wnid, text, "a gloss", 0.0, np.zeros((0, 0)), 0.0, 1300.0)
    inner = (float(len(words) + 1), "n00001740", "entity", "a gloss", 2.0, np.array([[1.0, 2.0]]), 1.0, 0.0)
    synsets[len(words), 0] = inner
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    order = list(words)
    truth = "".join(f"{order.index(wnid) + 1}\n" for _, wnid in val)
    top = "ILSVRC2012_devkit_t12"
    members = {
        f"{top}/readme.txt": b"read me",
        f"{top}/data/meta.mat": meta.getvalue(),
        f"{top}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }
    write_tar(root / "ILSVRC2012_devkit_t12.tar.gz", members, "w:gz")


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pack_here(root: Path, output: Path, **changes: Any) -> Path:
    """What `prepare` does with an ImageFolder, in this process."""
    words = {"source": "imagefolder", "size": 48, "quality": 95, "max_skipped": 1.0, "workers": 1, "samples_per_shard": 8}
    settings = check(PrepareSettings, {**words, "root": str(root), "output": str(output), **changes})
    with ThreadPoolExecutor(1) as pool, locked(output):
        source = list_source(settings.source, root, settings.side is None, pool, settings.val_labels, settings.classes)
        plan = begin(output, what_it_is_made_of(settings, source))
        assert plan is not None
        jobs = list(plan_shards(settings, source))
        for job in jobs:
            make_shard(job)
        records = {split: [read_record(output, split, job.number) for job in jobs if job.split == split] for split in SPLITS}
        sums = Sums.zero(settings.side or 256)
        for record in records["train"]:
            assert record.sums is not None
            sums.add(record.sums)
        publish(output, plan, source.classes, records, sums)
    return output


def run_prepare(*overrides: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        return run_forked("prepare", *overrides, cwd=Path(folder), timeout=120)


def prepare_command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "alexnet_dist.prepare", *overrides]


def checksums(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not os.path.samefile(path, folder / ".lock")
    }


def pixels_of(images: PackedImages, index: int) -> np.ndarray:
    """A stored image: int64 [height, width, 3]."""
    return np.asarray(decode(images.read(index).tobytes())[0]).astype(int)


def stem_of(images: PackedImages, index: int) -> str:
    """What the file of a stored image was called, without its ending."""
    return images.name(index).split(":")[1].split("_", 1)[1].removesuffix(".jpg")
