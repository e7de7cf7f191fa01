"""Whether a packed set is still, byte for byte, what its manifest says."""

from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_dist.data.packed import INDEX_ROW, SPLITS, TAR_BLOCK, crc_of, index_name, read_manifest
from alexnet_dist.files import sha256_of


def verify_files(root: Path, pool: Executor) -> list[str]:
    """Read all of a packed set and return a line for everything that is wrong; none where the set is whole.

    A shard whose checksum differs is searched sample by sample. Raises UserError where there is no finished set.
    """
    manifest = read_manifest(root)
    findings = []
    for name, entry in manifest["files"].items():
        if (finding := check_file(root / name, entry)) is not None:
            findings.append(finding)
    shards = [(split, number, entry) for split in SPLITS for number, entry in enumerate(manifest["splits"][split]["shards"])]
    findings += [
        finding for found in pool.map(check_shard, [root] * len(shards), *zip(*shards, strict=True)) for finding in found
    ]
    return findings


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
            member = shard[offset - TAR_BLOCK : offset - TAR_BLOCK + 100].split(b"\0", 1)[0]
            findings.append(f"{entry['file']}:{member.decode('ascii', 'backslashreplace')}: the sample has gone bad")
    return findings
