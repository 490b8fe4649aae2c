"""The pages of the docs: README leads to each of them, and links between them have targets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwsigner.cli.pages import names
from pages import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*/*.md"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_readme_lists_every_page() -> None:
    table = (ROOT / "README.md").read_text().split("\n## More\n")[1]
    assert [name for name in names() if f"/{name}.md)" not in table] == []


def test_no_two_pages_have_one_name() -> None:
    assert len(names()) == len(list((ROOT / "docs").glob("*/*.md")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_have_targets(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link or target.suffix != ".md":
            continue
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link
