"""The pages of the docs: the first page leads to each of them, and links between them have targets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwsigner._cli.pages import names
from pages import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_readme_fits_two_screens_and_leads_to_every_part() -> None:
    readme, index = ((ROOT / name).read_text() for name in ("README.md", "docs/index.md"))
    parts = re.findall(r"^## (Start|How .*|Reference)$", index, re.MULTILINE)
    assert readme.count("\n") <= 140
    assert len(parts) == 4
    assert [part for part in parts if f"[{part}](docs/index.md#" not in readme] == []


def test_every_page_is_listed_by_the_first_or_by_the_list_of_commands() -> None:
    index, commands = ((ROOT / "docs" / name).read_text() for name in ("index.md", "reference/commands.md"))
    assert [name for name in names() if f"/{name}.md)" not in index and f"]({name}.md)" not in commands] == []


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
