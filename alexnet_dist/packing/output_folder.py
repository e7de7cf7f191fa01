"""The folder that `prepare` fills: claimed by one run at a time, gone on with after a kill, declared whole by its manifest.

While a set is being made its folder holds `.preparing/`, with the plan (what the set is made of, and by which versions) and
a record for each finished shard. The manifest comes last; a folder that has one is complete.
"""

import hashlib
import io
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import features

import alexnet_dist
from alexnet_dist.data.packed import (
    FORMAT,
    INDEX_ROW,
    MANIFEST,
    SKIPPED,
    SPLITS,
    STATISTICS,
    WORK_FOLDER,
    ClassName,
    index_name,
    is_packed,
    read_manifest,
    shard_name,
)
from alexnet_dist.data.statistics import Sums
from alexnet_dist.errors import UserError
from alexnet_dist.files import LOCK, locked_folder, whole_file
from alexnet_dist.packing.shards import ShardRecord
from alexnet_dist.text import one_cell


def refuse_foreign_folder(output: Path) -> None:
    """Raises UserError where the output holds anything that is not this command's."""
    if output.exists() and not output.is_dir():
        raise UserError(f"output={output} is a file: name a folder that does not exist yet")
    if output.is_dir() and not is_packed(output) and any(entry.name != LOCK for entry in output.iterdir()):
        raise UserError(f"output={output} holds other files: name a folder that is empty or does not exist yet")


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Make the output folder and hold it.

    Raises UserError: another run holds it, it cannot be written to, or, within it, a file cannot be read or written.
    """
    try:
        with locked_folder(output):
            try:
                yield
            except OSError as error:
                raise UserError(
                    f"{error.filename or output} cannot be read or written ({error.strerror}): mend that and run it again"
                ) from None
    except BlockingIOError:
        raise UserError(f"another run is preparing {output}: wait for it, or name another folder") from None
    except OSError as error:
        raise UserError(f"output={output} cannot be written to ({error.strerror}): name another folder") from None


def begin(output: Path, made_of: Mapping[str, Any]) -> dict[str, Any] | None:
    """The plan of the set: `made_of` and the versions that make it, as first begun; None where the set is complete.

    `made_of` has `source`, `source_sha256` and `options`. Raises UserError where the folder was begun with another value of
    any of them, or, unless it is complete, with another JPEG library, whose bytes might differ; or where it is complete and a
    file of it is missing or has another length.
    """
    plan_file = output / WORK_FOLDER / "plan.json"
    complete = (output / MANIFEST).exists()
    if not complete and not plan_file.exists():
        plan = {**made_of, "versions": _versions()}
        plan_file.parent.mkdir(exist_ok=True)
        write_file(plan_file, json.dumps(plan).encode())
        return plan
    begun = read_manifest(output) if complete else json.loads(plan_file.read_text("utf-8"))
    for key, value in made_of.items():
        if begun[key] != value:
            difference = "from other files" if key == "source_sha256" else f"with {key} {begun[key]}, not {value}"
            raise UserError(f"{output} was begun {difference}: name another output folder, or remove this one first")
    if complete:
        shards = [(entry["file"], entry) for split in SPLITS for entry in begun["splits"][split]["shards"]]
        for name, entry in (*begun["files"].items(), *shards):
            if not (output / name).is_file() or (output / name).stat().st_size != entry["bytes"]:
                raise UserError(f"{output} is complete but for {name}: copy that again, or name another output folder")
        shutil.rmtree(output / WORK_FOLDER, ignore_errors=True)
        return None
    for library in ("pillow", "libjpeg"):
        was, now = begun["versions"][library], _versions()[library]
        if was != now:
            raise UserError(
                f"{output} was begun with {library} {was} and this is {now}, which may write other bytes: "
                "install that version again, or name another output folder"
            )
    return dict(begun)


def _versions() -> dict[str, str | None]:
    return {
        "alexnet_dist": alexnet_dist.__version__,
        "pillow": PIL.__version__,
        "libjpeg": features.version("libjpeg_turbo") or features.version("jpg"),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


def write_file(path: Path, data: bytes) -> dict[str, Any]:
    """Write a file, whole or not at all; returns its entry for the manifest."""
    with whole_file(path, to_disk=True) as file:
        file.write(data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_skipped(output: Path, records: Mapping[str, Sequence[ShardRecord]]) -> dict[str, Any]:
    """skipped.tsv: split, file and reason of every file that was not packed; returns its entry for the manifest."""
    lines = ["split\tfile\treason"]
    for split, own in records.items():
        for record in own:
            lines += ["\t".join((split, one_cell(name), one_cell(reason))) for name, reason in record.skipped]
    return write_file(output / SKIPPED, ("\n".join(lines) + "\n").encode("utf-8"))


def publish(
    output: Path,
    plan: Mapping[str, Any],
    classes: Sequence[ClassName],
    records: Mapping[str, Sequence[ShardRecord]],
    sums: Sums,
) -> None:
    """Write the indexes, the statistics and skipped.tsv, and last the manifest, which declares the set complete."""
    files = {SKIPPED: write_skipped(output, records)}
    statistics_file = output / WORK_FOLDER / STATISTICS
    sums.statistics().save(statistics_file)
    files[STATISTICS] = write_file(output / STATISTICS, statistics_file.read_bytes())
    for split in SPLITS:
        rows = io.BytesIO()
        np.save(rows, np.concatenate([np.empty(0, INDEX_ROW), *(record.rows for record in records[split])]))
        files[index_name(split)] = write_file(output / index_name(split), rows.getvalue())
    manifest = {
        "format": FORMAT,
        **plan,
        "classes": [{"id": entry.id, "words": entry.words} for entry in classes],
        "channel_means": sums.channel_means().tolist(),
        "splits": {split: _split_entry(split, records[split]) for split in SPLITS},
        "files": files,
    }
    write_file(output / MANIFEST, json.dumps(manifest, indent=1).encode())
    shutil.rmtree(output / WORK_FOLDER)


def _split_entry(split: str, records: Sequence[ShardRecord]) -> dict[str, Any]:
    return {
        "images": sum(len(record.rows) for record in records),
        "skipped": sum(len(record.skipped) for record in records),
        "shards": [
            {"file": shard_name(split, number), "images": len(record.rows), "bytes": record.size, "sha256": record.sha256}
            for number, record in enumerate(records)
        ],
    }
