"""metrics.jsonl: the whole record of a run, one JSON object a line."""

import json
import os
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends records; `rewind` takes back those of steps that a resumed run goes through again."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    @property
    def size(self) -> int:
        """Bytes written so far; a checkpoint keeps this."""
        return self._file.tell()

    def rewind(self, size: int) -> None:
        """Drop what stands behind the first `size` bytes."""
        os.truncate(self._file.fileno(), min(size, self._file.tell()))
        self._file.seek(0, os.SEEK_END)

    def append(self, record: dict[str, Any]) -> None:
        """Write one line and hand it to the operating system."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
