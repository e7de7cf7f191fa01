"""One small ImageNet in the forms in which people have it."""

import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from alexnet_dist.packing.samples import Source
from alexnet_dist.packing.sources import list_source, recognise
from tests.packing.miniature import write_files, write_ilsvrc2012, write_tar

# Of each split the files: name, WordNet id, bytes.
Files = Sequence[tuple[str, str, bytes]]


def imagenet(words: Mapping[str, str], per_class: int, content: Callable[[str, int], bytes]) -> tuple[Files, Files]:
    """Files for training and validation, the first by class and the second mixed, called as ImageNet's are."""
    train = [(f"{wnid}_{number}.JPEG", wnid, content(wnid, number)) for wnid in words for number in range(per_class)]
    val = [
        (f"ILSVRC2012_val_{number:08d}.JPEG", wnid, content(wnid, per_class)) for number, wnid in enumerate(reversed(words), 1)
    ]
    return train, val


def write_parquet(path: Path, files: Files, labels: Sequence[int], words: Sequence[str] = (), **options: Any) -> None:
    rows = [{"bytes": data, "path": name} for name, _, data in files]
    about = {"info": {"features": {"label": {"names": list(words), "_type": "ClassLabel"}}}} if words else {}
    table = pa.table({"image": pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()})), "label": list(labels)})
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    parquet.write_table(table, path, **{"row_group_size": 3, **options})


def as_parquet(root: Path, words: Mapping[str, str], train: Files, val: Files) -> None:
    """Hugging Face's ILSVRC/imagenet-1k: names of validation images say the class too; the test set has no labels."""
    numbers = {wnid: label for label, wnid in enumerate(sorted(words))}
    named = [words[wnid] for wnid in sorted(words)]
    for number in range(2):
        part = train[number::2]
        write_parquet(root / f"data/train-0000{number}-of-00002.parquet", part, [numbers[wnid] for _, wnid, _ in part], named)
    told = [(f"{name.removesuffix('.JPEG')}_{wnid}.JPEG", wnid, data) for name, wnid, data in val]
    write_parquet(root / "data/validation-00000-of-00001.parquet", told, [numbers[wnid] for _, wnid, _ in val], named)
    write_parquet(root / "data/test-00000-of-00001.parquet", told[:2], [-1, -1], named)


def as_webdataset(root: Path, words: Mapping[str, str], train: Files, val: Files) -> None:
    """timm/imagenet-1k-wds."""
    numbers = {wnid: label for label, wnid in enumerate(sorted(words))}
    root.mkdir(parents=True)
    for name, files in (("train-0000", train[::2]), ("train-0001", train[1::2]), ("validation-00", val)):
        members = {}
        for file, wnid, data in files:
            key = file.removesuffix(".JPEG")
            members |= {f"{key}.jpg": data, f"{key}.cls": str(numbers[wnid]).encode(), f"{key}.json": b"{}"}
        write_tar(root / f"imagenet1k-{name}.tar", members)


def as_kaggle(root: Path, words: Mapping[str, str], train: Files, val: Files) -> None:
    images = Path("ILSVRC/Data/CLS-LOC")
    solution = ["ImageId,PredictionString"] + [f"{Path(name).stem},{wnid} 1 2 30 40 {wnid} 5 6 7 8" for name, wnid, _ in val]
    write_files(
        root,
        {f"{images}/train/{wnid}/{name}": data for name, wnid, data in train}
        | {f"{images}/val/{name}": data for name, _, data in val}
        | {f"{images}/test/x.JPEG": b"-", "LOC_val_solution.csv": "\n".join(solution).encode()}
        | {"LOC_synset_mapping.txt": "".join(f"{wnid} {words[wnid]}\n" for wnid in sorted(words)).encode()},
    )


def as_tiny_imagenet(root: Path, words: Mapping[str, str], train: Files, val: Files) -> None:
    write_files(
        root,
        {f"train/{wnid}/images/{name}": data for name, wnid, data in train}
        | {f"val/images/{name}": data for name, _, data in val}
        | {"val/val_annotations.txt": "".join(f"{name}\t{wnid}\t0\t0\t9\t9\n" for name, wnid, _ in val).encode()}
        | {"wnids.txt": "\n".join(words).encode()}
        | {"words.txt": "".join(f"{wnid}\t{text}\n" for wnid, text in {**words, "n99999999": "unused"}.items()).encode()},
    )


def as_flat_val(root: Path, words: Mapping[str, str], train: Files, val: Files) -> None:
    """An image folder whose validation images lie together, with Caffe's list of them, val.txt."""
    numbers = {wnid: label for label, wnid in enumerate(sorted(words))}
    write_files(
        root,
        {f"train/{wnid}/{name}": data for name, wnid, data in train}
        | {f"val/{name}": data for name, _, data in val}
        | {"val.txt": "".join(f"{name} {numbers[wnid]}\n" for name, wnid, _ in val).encode()},
    )


def as_archives(root: Path, words: Mapping[str, str], train: Files, val: Files) -> None:
    """image-net.org's; the devkit numbers the classes as `words` does."""
    of_class: dict[str, dict[str, bytes]] = {wnid: {} for wnid in words}
    for name, wnid, data in train:
        of_class[wnid][name] = data
    write_ilsvrc2012(root, of_class, [(data, wnid) for _, wnid, data in val], words)


FORMS = {
    "parquet": as_parquet,
    "webdataset": as_webdataset,
    "kaggle": as_kaggle,
    "tiny_imagenet": as_tiny_imagenet,
    "imagefolder": as_flat_val,
    "ilsvrc2012": as_archives,
}


def cut_short(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def tar_without(path: Path, ending: str) -> None:
    """The archive again, without the members that end so."""
    with tarfile.open(path) as tar:
        kept = {m.name: tar.extractfile(m).read() for m in tar if not m.name.endswith(ending)}  # type: ignore[union-attr]
    write_tar(path, kept)


# In another order than that of their ids.
WORDS = {"n02000003": "crane", "n02000001": "tench, Tinca tinca", "n02000004": "goldfish", "n02000002": "crane bird"}


def listed(root: Path, form: str | None = None, **options: str) -> Source:
    with ThreadPoolExecutor(2) as pool:
        return list_source(form or recognise(root), root, False, pool, **options)  # type: ignore[arg-type]


def text(wnid: str, number: int) -> bytes:
    return f"{wnid} {number}".encode()


def made(form: str, root: Path) -> Path:
    FORMS[form](root, WORDS, *imagenet(WORDS, 4, text))
    return root


def options_of(form: str, root: Path) -> dict[str, str]:
    return {"val_labels": str(root / "val.txt")} if form == "imagefolder" else {}
