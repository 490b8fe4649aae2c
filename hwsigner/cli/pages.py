"""The pages of the docs, which the wheel contains: `hwsigner help agent` prints docs/agent.md."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable


def names() -> list[str]:
    """Return the names of the pages."""
    return sorted(path.name.removesuffix(".md") for path in _folder().iterdir() if path.name.endswith(".md"))


def page(name: str) -> str:
    """Return a page, in Markdown."""
    return (_folder() / f"{name}.md").read_text("utf-8").rstrip("\n")


def _folder() -> Traversable:
    """Return the folder of the pages: in the wheel or, for an editable install, in the repository."""
    package = files("hwsigner")
    docs = package / "docs"
    return docs if docs.is_dir() else package / ".." / "docs"
