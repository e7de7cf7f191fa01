"""metrics.jsonl where the disk is full for a while."""

from pathlib import Path

from alexnet_dist.tracking.metrics import MetricsFile, last_validation


def test_lines_that_are_kept_are_written_at_the_end_or_missed(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    full, there = MetricsFile(tmp_path / "full"), MetricsFile(tmp_path / "there")
    assert full.append({"step": 1}) == full.close() == "No space left on device"
    there._pending = b"a line\n"
    assert there.close() is None
    assert (tmp_path / "there").read_text() == "a line\n"


def test_of_what_a_full_disk_has_cut_the_last_whole_validation_is_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "val", "loss": 1}\n{"kind": "train"}\n{"kind": "val", "lo')
    assert last_validation(tmp_path) == {"kind": "val", "loss": 1}
    (tmp_path / "metrics.jsonl").write_text("")
    assert last_validation(tmp_path) is None
