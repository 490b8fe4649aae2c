"""The terminals of docs/start show what the commands print, and are pictures that all readers can use."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

import judges
from pages import ROOT
from recordings import Recording, draw, record, recordings
from transcripts import without_changes

SVG = "{http://www.w3.org/2000/svg}"
ALL = [pytest.param(each, id=each.name) for each in recordings()]


def lines(picture: str) -> list[str]:
    """Return the lines of a terminal, as a program printed them."""
    return ["".join(text.itertext()) for text in ElementTree.fromstring(picture).iter(f"{SVG}text")]


@judges.needs_libykcs11
@judges.needs_aws_cli
@pytest.mark.slow
@pytest.mark.usefixtures("hardware")
@pytest.mark.parametrize("recording", ALL)
def test_picture_shows_what_the_commands_print(recording: Recording, short_folder: Path) -> None:
    (home := short_folder / "jo").mkdir()
    printed = record(recording, home)
    shown = lines(recording.path.read_text())
    assert list(map(without_changes, shown)) == list(map(without_changes, printed)), "run python tests/recordings.py"
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert [each for each in commands if b"pcscd" in each and os.fsencode(home) in each] == []


@pytest.mark.parametrize("recording", ALL)
def test_picture_of_a_terminal_fits_and_is_described(recording: Recording) -> None:
    picture = recording.path.read_text()
    root = ElementTree.fromstring(picture)
    assert len(list(root.iter(f"{SVG}tspan"))) <= 30
    assert float(root.attrib["width"]) <= 940
    assert "prefers-color-scheme" in picture
    assert "href" not in picture
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "start").glob("*.md"))
    assert f"]({recording.path.name})" in pages


def test_lines_that_are_too_long_continue_below() -> None:
    picture = draw("Title", ["$ a < b", "c" * 100])
    assert lines(picture) == ["$ a < b", "c" * 100]
    assert picture.count("<tspan") == 3
