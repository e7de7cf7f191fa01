"""The plan against a link that is slowed: a step's time is foretold from a probe of the fast link and the known rate."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.hosts import NotPermitted
from tests.distributed.slow_link import measure_on_hosts


@pytest.mark.slow
def test_a_step_on_a_slow_link_takes_about_what_the_plan_says(tmp_path: Path) -> None:
    def measured(turn: str) -> dict[str, Any]:
        (tmp_path / turn).mkdir()
        return measure_on_hosts(256, [1e9, 1e8, 3e7], ["model=tiny"], tmp_path / turn)

    try:
        figures = measured("once")
        if not _are_as_planned(figures):  # something else was at work
            figures = measured("again")
    except NotPermitted as reason:
        pytest.skip(str(reason))
    assert _are_as_planned(figures), figures


def _are_as_planned(figures: dict[str, Any]) -> bool:
    """The plan is held to 20 % where a machine is left alone (docs/plan.md); a test shares its machine."""
    fits = []
    for way in ("wait", "split"):
        rows = [row for turn, row in figures.items() if turn.endswith(way)]
        assert len(rows) == 3
        fits += [0.6 < row["ratio"] < 1.6 for row in rows]
        fits.append(rows[0]["measured"] < rows[1]["measured"] < rows[2]["measured"])
        fits.append(rows[2]["waited"] > rows[2]["measured"] / 3)
    return all(fits)
