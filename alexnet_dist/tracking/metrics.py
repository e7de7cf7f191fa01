"""metrics.jsonl: the whole record of a run, one JSON object a line."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends records; `rewind` takes back those of steps that a resumed run goes through again."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    @property
    def size(self) -> int:
        """Bytes of all records so far; a checkpoint keeps this."""
        return self._file.tell() + len(self._pending)

    def rewind(self, size: int) -> None:
        """Drop what stands behind the first `size` bytes."""
        os.truncate(self._file.fileno(), min(size, self._file.tell()))
        self._file.seek(0, os.SEEK_END)

    def append(self, record: dict[str, Any]) -> str | None:
        """Write one line and hand it to the operating system; the system's reason if it cannot take it now.

        What it does not take is kept, and offered again with the next record.
        """
        self._pending += json.dumps(finite(record)).encode() + b"\n"
        return self._write()

    def close(self) -> str | None:
        """Offer what is kept once more, and close the file; the system's reason if lines are lost."""
        problem = self._write()
        self._file.close()
        return problem

    def _write(self) -> str | None:
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            return error.strerror
        return None


def finite(value: Any) -> Any:
    """With null for each figure that is infinite or no number, since JSON has no word for it."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def last_validation(run_dir: Path) -> dict[str, Any] | None:
    """The last `val` object in a run folder's metrics.jsonl; None where a full disk has left none."""
    for line in reversed((run_dir / "metrics.jsonl").read_text().splitlines()):
        with suppress(ValueError):  # the line that the disk has cut
            if (record := json.loads(line))["kind"] == "val":
                return record
    return None
