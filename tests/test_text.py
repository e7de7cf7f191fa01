"""Spans of time, sizes and names as a person reads them."""

import os

import pytest

from alexnet_dist.launching.commands import compose
from alexnet_dist.text import byte_size, duration, hydra_value, printable


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0000733, "0.0733 ms"),
        (0.997, "997 ms"),
        (2.314, "2.31 s"),
        (59.7, "1 min 00 s"),
        (80, "1 min 20 s"),
        (7500, "2 h 05 min"),
        (3600 * 76, "3 d 4 h"),
    ],
)
def test_a_duration_has_the_units_that_matter(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_sizes_have_three_figures() -> None:
    assert [byte_size(size) for size in (999, 86528, 2.4e9)] == ["999 bytes", "86.5 KB", "2.4 GB"]


def test_a_name_of_any_bytes_can_be_written() -> None:
    latin = os.fsdecode("Käfer".encode("latin-1"))
    assert printable(latin).encode() == "K\N{REPLACEMENT CHARACTER}fer".encode()
    assert printable("金魚") == "金魚"


@pytest.mark.parametrize("text", ["runs/x", "2024", "null", "1e3", "a b", " a", "a=b,c", "a\\", 'a\\"b', "it's", "[a]", "Käfer"])
def test_hydra_reads_a_text_back_as_it_was(text: str) -> None:
    assert compose("train", [f"run.dir={hydra_value(text)}"])["run"]["dir"] == text
    assert hydra_value("runs/a b") == "runs/a b", "no quotes where none are needed"
