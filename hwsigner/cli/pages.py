"""The pages of the docs, which the wheel contains: `hwsigner help agent` prints docs/how-to/agent.md."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable


def names() -> list[str]:
    """Return the names of the pages."""
    return sorted(_pages())


def page(name: str) -> str:
    """Return a page, in Markdown."""
    return _pages()[name].read_text("utf-8").rstrip("\n")


def _pages() -> dict[str, Traversable]:
    """Return the pages by name. Each is in a folder of docs/, such as how-to."""
    folders = [folder for folder in _folder().iterdir() if folder.is_dir()]
    files = [path for folder in folders for path in folder.iterdir() if path.name.endswith(".md")]
    return {path.name.removesuffix(".md"): path for path in files}


def _folder() -> Traversable:
    """Return the folder of the pages: in the wheel or, for an editable install, in the repository."""
    package = files("hwsigner")
    docs = package / "docs"
    return docs if docs.is_dir() else package / ".." / "docs"
