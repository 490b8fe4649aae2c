"""The table of tested systems: make knows each command in it, and no Python or release is left out."""

from __future__ import annotations

import re
import shlex

import pytest

from pages import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"\$\(([A-Z]+)\)", MAKEFILE))


def table() -> list[list[str]]:
    """Return the cells of the rows under the heading, without the table's own heading."""
    page = (ROOT / "docs" / "reference" / "systems.md").read_text()
    found = re.search(r"^#+ Where it runs\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, "the page has no heading 'Where it runs'"
    lines = re.findall(r"^\|(.+)\|$", found[1], re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def unknown(command: str) -> set[str]:
    """Return the targets and variables of a command that the Makefile does not have."""
    words = shlex.split(command)
    variables = {word.partition("=")[0] for word in words if "=" in word}
    nested = [word.partition("=")[2] for word in words if word.startswith("TARGET=")]
    targets = {word for word in words if "=" not in word}
    return (targets - TARGETS) | (variables - VARIABLES) | {name for inner in nested for name in unknown(inner)}


@pytest.mark.parametrize("command", ["nonesuch", "test NONESUCH=1", "test-debian TARGET='nonesuch SLOW=no'"])
def test_unknown_words_of_a_command_are_found(command: str) -> None:
    assert len(unknown(command)) == 1


def test_each_row_has_one_command_that_make_knows() -> None:
    assert table()
    for row in table():
        [command] = re.findall(r"`make ([^`]+)`", row[-1])
        assert unknown(command) == set(), row


def test_every_python_and_every_release_that_is_tested_has_a_row() -> None:
    text = "\n".join(" ".join(row) for row in table())
    [pythons] = re.findall(r"^PYTHONS = (.+)$", MAKEFILE, re.MULTILINE)
    [suites] = re.findall(r"in-debian (bookworm\S+) ", (ROOT / ".ci" / "in-debian").read_text().split("\nset ")[0])
    assert [python for python in pythons.split() if python not in text] == []
    assert [suite for suite in suites.split("|") if f"`make test-debian SUITE={suite}`" not in text] == []
