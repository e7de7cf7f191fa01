"""What a person reads: short lines in pages and configurations, and links that lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGURATIONS = sorted((ROOT / "conf").rglob("*.yaml"))
LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")


def _headings(page: Path) -> set[str]:
    """The names by which links name them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *CONFIGURATIONS], ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_is_longer_than_140_characters(page: Path) -> None:
    assert [line for line in page.read_text().splitlines() if len(line) > 140] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target, heading in LINK.findall(page.read_text()):
        if not target.startswith("http"):
            file = page.parent / target if target else page
            assert file.exists(), target
            assert not heading or heading in _headings(file), f"{target}#{heading}"
