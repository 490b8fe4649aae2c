"""What the pages that are made have in common: pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping


def plain(text: str) -> str:
    """Return text that is shown as it is, with flags as code."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", text)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z0-9-]*)", r"`\1`", escaped)


def code(text: str) -> str:
    """Return text as code in a line."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def fenced(text: str, language: str = "text") -> str:
    """Return a block of code."""
    return f"```{language}\n{text}\n```"


def definitions(terms: Mapping[str, str]) -> str:
    """Return a list of terms, each with its meaning."""
    return "\n\n".join(f"{code(term)}\n: {meaning}" for term, meaning in terms.items())


def title_of(page: str) -> str:
    """Return a page's title."""
    return page.partition("\n")[0].removeprefix("# ")
