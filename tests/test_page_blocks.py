"""Every command in the docs is run by a test, or marked as not run, with the reason.

A test runs a block if it takes it by one of the functions of `pages.py` and `transcripts.py` below, with the page and
the place as literals. A block that no test runs has a mark on the line before it: `<!-- not run: why -->`.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from pages import ROOT, Block, between, blocks
from transcripts import steps

PAGES = [
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "packaging/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
# The functions that take blocks, with the language of the blocks; `block` has it as an argument.
_TAKERS = {"shell_blocks": "sh", "python_block": "python", "follow": "", "block": ""}
_COMMANDS = ("sh", "console", "python")


def _literals(tree: ast.Module) -> dict[str, str]:
    """Return the texts that a module gives names to."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _calls() -> Iterator[tuple[str, list[str]]]:
    """Yield the function and the arguments of each call in the tests that takes blocks of a page."""
    for path in (ROOT / "tests").rglob("*.py"):
        if not re.search(r"^from (pages|transcripts) import", text := path.read_text(), re.MULTILINE):
            continue
        tree = ast.parse(text)
        names = _literals(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _TAKERS:
                places = node.args[:1] if node.func.id == "follow" else node.args
                yield node.func.id, [_text(each, names) for each in places]


def _text(node: ast.expr, names: dict[str, str]) -> str:
    """Return a literal text, or the one that a name of the module stands for."""
    value = names.get(node.id) if isinstance(node, ast.Name) else getattr(node, "value", None)
    assert isinstance(value, str), f"write the place as a literal: {ast.unparse(node)}"
    return value


def _taken(function: str, arguments: list[str]) -> list[Block]:
    page, *rest = arguments
    if function == "follow":
        return [step.commands for step in steps(page)]
    language = _TAKERS[function] or rest.pop(0)
    start, end = rest
    return between(page, language, start, end)


@functools.cache
def run_blocks() -> frozenset[Block]:
    """Return the blocks that tests run."""
    return frozenset(block for call in _calls() for block in _taken(*call))


def _all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks(page)]


def _is_marked(block: Block) -> bool:
    return re.match(r"not run: \w.{5,}", block.mark) is not None


def test_every_block_of_commands_is_run_or_marked() -> None:
    commands = [block for block in _all_blocks() if block.language in _COMMANDS]
    assert [str(block) for block in commands if block not in run_blocks() and not _is_marked(block)] == []


def test_no_block_that_is_run_has_a_mark() -> None:
    # `shell_blocks` leaves out those that are marked.
    taken = [block for block in run_blocks() if block.language != "sh"]
    assert [str(block) for block in taken if block.mark.startswith("not run")] == []


def test_marks_are_known() -> None:
    assert [str(each) for each in _all_blocks() if each.mark not in ("", "fails") and not _is_marked(each)] == []


def test_marks_name_tests_that_exist() -> None:
    named = [name for block in _all_blocks() for name in re.findall(r"tests/[\w/.]+\.py", block.mark)]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_mark_is_of_a_block() -> None:
    for page in PAGES:
        written = len(re.findall(r"^ *<!-- (?:not run|fails)", (ROOT / page).read_text(), re.MULTILINE))
        assert written == sum(block.mark != "" for block in blocks(page)), page


def test_every_block_has_a_language() -> None:
    assert [str(block) for block in _all_blocks() if not block.language] == []


def test_blocks_of_a_page_have_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    first = "<!-- not run: it needs a chip -->\n```sh\na\n```\n"
    page.write_text(f"{first}\n1. x\n\n   <!-- fails -->\n   ```sh\n   b\n     c\n   ```\n")
    found = [(block.mark, block.text, block.line) for block in blocks(str(page))]
    assert found == [("not run: it needs a chip", "a\n", 2), ("fails", "b\n  c\n", 9)]
