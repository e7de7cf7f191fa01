"""Overrides that have another name now."""

import sys

import pytest

from alexnet_dist import evaluate, train


@pytest.mark.parametrize("launcher", [{}, {"RANK": "0", "WORLD_SIZE": "2"}], ids=["plain", "torchrun"])
@pytest.mark.parametrize(
    ("word", "now"),
    [
        ("trainer.compile=off", "trainer.native"),
        ("+tracking.signals=true", "tracking.activity"),
        ("resume.allow=[seed]", "resume_allow"),
    ],
)
def test_an_old_name_is_refused_and_the_new_one_told(
    word: str, now: str, launcher: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "seed=1", word])
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        train.main()
    old = word.lstrip("+").partition("=")[0]
    assert capsys.readouterr().err == f"error: {old} is called {now} now: give {now}=...\n"


def test_so_it_is_in_other_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", "trainer.compile=off"])
    with pytest.raises(SystemExit, match="2"):
        evaluate.main()
    assert "is called trainer.native now" in capsys.readouterr().err
