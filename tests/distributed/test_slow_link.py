"""The plan against a link that is slowed: a step's time is foretold from a probe of the fast link and the known rate."""

from pathlib import Path

import pytest

from tests.distributed.hosts import NotPermitted
from tests.distributed.slow_link import measure_on_hosts


@pytest.mark.slow
def test_a_step_on_a_slow_link_takes_about_what_the_plan_says(tmp_path: Path) -> None:
    try:
        figures = measure_on_hosts(256, [1e9, 1e8, 3e7], ["model=tiny"], tmp_path)
    except NotPermitted as reason:
        pytest.skip(str(reason))
    for way in ("wait", "split"):
        rows = [row for turn, row in figures.items() if turn.endswith(way)]
        assert len(rows) == 3
        for row in rows:
            # The plan is held to 20 % where a machine is left alone (docs/plan.md); a test shares its machine.
            assert 0.6 < row["ratio"] < 1.6, figures
        assert rows[0]["measured"] < rows[1]["measured"] < rows[2]["measured"], figures
        assert rows[2]["waited"] > rows[2]["measured"] / 3, figures
