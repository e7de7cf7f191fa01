"""metrics.jsonl where the disk is full for a while."""

from pathlib import Path

from alexnet_dist.tracking.metrics import MetricsFile


def test_lines_that_are_kept_are_written_at_the_end_or_missed(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    full, there = MetricsFile(tmp_path / "full"), MetricsFile(tmp_path / "there")
    assert full.append({"step": 1}) == full.close() == "No space left on device"
    there._pending = b"a line\n"
    assert there.close() is None
    assert (tmp_path / "there").read_text() == "a line\n"
