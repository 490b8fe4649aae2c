"""Every command and every flag in the pages exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwsigner._cli import COMMANDS, command_parser
from pages import ROOT

PAGES = [
    *sorted((ROOT / "docs").glob("**/*.md")),
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    ROOT / "packaging" / "README.md",
]
# Words of a command line behind which another program's begin, or that stand for any flags.
_ENDS = re.compile(r"\s--(?:\s|$)|[|;&#<>()]|\s--?[\w-]*…|`")
NOT_COMMANDS = {"attestation key"}  # the label of a key
ALL_FLAGS = {flag.name for name in COMMANDS for flag in command_parser(name)[1].flags} | {"help"}


def command_lines(text: str) -> Iterator[str]:
    """Yield the command lines of a page that begin with hwsigner, without it."""
    text = re.sub(r"\\\n\s*", " ", text)
    blocks = re.findall(r"^ *```(?:sh|console|yaml|ini|dockerfile)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(
        r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    )
    lines = [*"\n".join(blocks).splitlines(), *(" ".join(span.split()) for span in spans)]
    for line in lines:
        yield from re.findall(r"(?:^|[\s/='\"])hwsigner ((?:--)?[a-z][^\n]*)", line)


def command_of(line: str) -> str:
    words = line.split()
    return next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_and_their_flags_exist(page: Path) -> None:
    unknown = []
    for line in command_lines(page.read_text()):
        name = command_of(line)
        own = _ENDS.split(line)[0]
        first = own.split()[0] if own.split() else ""
        if not name and first not in ("help", "--help", "--version") and line not in NOT_COMMANDS:
            unknown.append(line)
        flags = {flag.name for flag in command_parser(name)[1].flags} | {"help"} if name else ALL_FLAGS
        unknown += [f"--{flag}: {line}" for flag in re.findall(r"\s--([a-z][a-z0-9-]*)", own) if flag not in flags]
    assert unknown == []
