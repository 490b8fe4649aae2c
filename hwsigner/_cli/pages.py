"""The pages of the docs, which the wheel contains: `hwsigner help agent` prints docs/how-to/agent.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable


def names() -> list[str]:
    """Return the names of the pages."""
    return sorted(_pages())


def names_without(commands: Iterable[str]) -> list[str]:
    """Return the names of the pages that no command has: `hwsigner help agent` shows a command's flags and its page."""
    return sorted(_pages().keys() - {page_of(command) for command in commands})


def page_of(command: str) -> str:
    """Return the name that a page about a command has: aws-setup for `aws setup`."""
    return command.replace(" ", "-")


def page(name: str) -> str:
    """Return a page, in Markdown, without its comments."""
    return re.sub(r"^ *<!-- .*? -->\n", "", _pages()[name].read_text("utf-8"), flags=re.MULTILINE).rstrip("\n")


def _pages() -> dict[str, Traversable]:
    """Return the pages by name. Each is in a folder of docs/, such as how-to."""
    package = files("hwsigner")
    docs = package / "docs"  # In the wheel; for an editable install, they are in the repository.
    folders = [one for one in (docs if docs.is_dir() else package / ".." / "docs").iterdir() if one.is_dir()]
    pages = [path for folder in folders for path in folder.iterdir() if path.name.endswith(".md")]
    return {path.name.removesuffix(".md"): path for path in pages}
