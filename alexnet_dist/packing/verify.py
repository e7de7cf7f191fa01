"""Whether a packed set is still, byte for byte, what its manifest says."""

from concurrent.futures import Executor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_dist.data.packed import INDEX_ROW, SPLITS, crc_of, index_name, member_before, read_manifest
from alexnet_dist.files import sha256_of


def verify_files(root: Path, pool: Executor) -> list[str]:
    """Read all of a packed set and return a line for everything that is wrong; none where the set is whole.

    A shard whose checksum differs is searched sample by sample. Raises UserError where there is no finished set.
    """
    manifest = read_manifest(root)
    findings = [finding for name, entry in manifest["files"].items() if (finding := check_file(root / name, entry))]
    shards = [(root, split, *numbered) for split in SPLITS for numbered in enumerate(manifest["splits"][split]["shards"])]
    return [*findings, *chain.from_iterable(pool.map(check_shard, *zip(*shards, strict=True)))]


def check_file(path: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with a file, given its `bytes` and `sha256`; None where it is whole."""
    try:
        sha256, size = sha256_of(path), path.stat().st_size
    except OSError as error:
        return f"{path.name}: cannot be read ({error.strerror})"
    if size != entry["bytes"]:
        return f"{path.name}: {size} bytes instead of {entry['bytes']}"
    return None if sha256 == entry["sha256"] else f"{path.name}: its checksum is not the manifest's"


def check_shard(root: Path, split: str, number: int, entry: dict[str, Any]) -> list[str]:
    """What is wrong with a shard, with the samples that are hurt where the index can be read."""
    finding = check_file(root / entry["file"], entry)
    if finding is None:
        return []
    findings = [finding]
    try:
        rows = np.load(root / index_name(split), mmap_mode="r")
        shard = (root / entry["file"]).read_bytes()
    except (OSError, EOFError, ValueError):
        return findings
    for row in rows[rows["shard"] == number] if rows.dtype == INDEX_ROW else ():
        offset, length, crc, _, _ = row.item()
        if crc_of(shard[offset : offset + length]) != crc:
            findings.append(f"{entry['file']}:{member_before(shard, offset)}: the sample has gone bad")
    return findings
