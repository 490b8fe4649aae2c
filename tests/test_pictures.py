"""The drawn pictures of docs/how-it-works: described for readers who can't see them, and true to the code."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hwsigner._refresh.schedule import SESSION_TIMING
from pages import ROOT

FOLDER = ROOT / "docs" / "how-it-works"
DRAWN = sorted(path for path in FOLDER.glob("*.svg") if "prefers-color-scheme" in path.read_text())
SVG = "{http://www.w3.org/2000/svg}"


def test_every_picture_follows_a_dark_page() -> None:
    assert [path.name for path in FOLDER.glob("*.svg") if path not in DRAWN] == []


def test_each_drawn_picture_is_shown_by_a_page_with_a_description() -> None:
    shown = re.findall(r"!\[([^\]]+)\]\(([\w-]+\.svg)\)", "".join(page.read_text() for page in FOLDER.glob("*.md")))
    assert {path.name for path in DRAWN} <= {name for alternative, name in shown if alternative}
    assert len(DRAWN) >= 6


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.name)
def test_picture_has_title_and_description_and_loads_nothing(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    texts = {child.get("id"): child.text for child in root if child.tag in (f"{SVG}title", f"{SVG}desc")}
    assert all(texts[name] for name in root.attrib["aria-labelledby"].split())
    assert root.get("role") == "img"
    assert set(re.findall(r"url\(([^)]*)\)", path.read_text())) <= {"#tip"}
    assert "href" not in path.read_text()


def test_minutes_of_the_refresh_are_those_of_the_schedule() -> None:
    earliest, latest = (SESSION_TIMING.lifetime(0.0, 3600.0, chance) for chance in (lambda: 1.0, lambda: 0.0))
    minutes = [f"{(3600 - lifetime.ahead) / 60:.0f}" for lifetime in (earliest, latest)]
    page, picture = ((FOLDER / f"refresh{suffix}").read_text() for suffix in (".md", ".svg"))
    assert f"| {minutes[0]} to {minutes[1]} |" in page
    assert all(f">{minute} min<" in picture for minute in minutes)
    assert all(f"{SESSION_TIMING.longest_pause:.0f} s" in text for text in (page, picture))
