"""The pages of the docs: README leads to their parts, and links between them have targets."""

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


def test_readme_fits_two_screens_and_leads_to_every_part() -> None:
    text = (ROOT / "README.md").read_text()
    parts = [path.name for path in (ROOT / "docs").iterdir() if path.is_dir()]
    assert text.count("\n") <= 130
    assert [part for part in parts if f"(docs/{part})" not in text] == []


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
