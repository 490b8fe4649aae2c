"""The blocks of code of the docs, and ways to run them.

A test takes blocks by `shell_blocks`, `python_block`, `follow` or `steps`, with the page and the place as literals:
`tests/test_page_blocks.py` reads these calls to find the blocks that no test runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: the word after the fence, which may be empty.
        text: the lines, without the indentation of the fence.
        offset: where it begins in the page.
        line: the number of the fence's line.
        mark: the HTML comment on the line before the fence, without its signs, or an empty string.
    """

    page: str
    language: str
    text: str
    offset: int
    line: int
    mark: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


_FENCED = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<mark>[^\n]*) -->\n(?P=indent))?```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = (ROOT / page).read_text()
    for found in _FENCED.finditer(text):
        offset = found.start("language") - 3
        lines = textwrap.dedent(found["text"]) if found["indent"] else found["text"]
        yield Block(page, found["language"], lines, offset, text.count("\n", 0, offset) + 1, found["mark"] or "")


def between(page: str, language: str, start: str, end: str) -> list[Block]:
    """Return the blocks of a language between two texts, the second of which comes after the first."""
    text = (ROOT / page).read_text()
    first = text.index(start)
    last = text.index(end, first)
    return [each for each in blocks(page) if each.language == language and first <= each.offset < last]


def shell_blocks(page: str, start: str, end: str) -> str:
    """Return the shell commands of a page between two texts, without those that are marked as not run."""
    found = between(page, "sh", start, end)
    return "".join(each.text for each in found if not each.mark.startswith("not run"))


def job_scripts(page: str, start: str, end: str) -> list[str]:
    """Return the scripts in a page's YAML between two texts: each block scalar, such as `run: |`."""
    yaml = [each.text for each in between(page, "yaml", start, end)]
    found = [re.findall(r"^( *)(?:- |run: )\|\n((?:\1 .*\n)+)", text, re.MULTILINE) for text in yaml]
    return [textwrap.dedent(script) for scripts in found for _, script in scripts]


def block(page: str, language: str, start: str, end: str) -> str:
    """Return the only block of a language in a page between two texts."""
    (found,) = between(page, language, start, end)
    return found.text


def python_block(page: str, start: str, end: str) -> str:
    """Return the only Python block of a page between two texts."""
    return block(page, "python", start, end)


def run_shell(script: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run commands in a folder, and return what they print. What they leave running is ended."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **environment}
    script = f"set -e; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout
