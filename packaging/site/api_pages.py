"""The reference of the Python API, from the docstrings: a page for the package and one for each public module."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import hwsigner
from markup import fenced, plain

_INTRODUCTION = """\
# Python API

All that a program may use. Names that are not here can change at any time.
[hwsigner in a Python program](../how-to/library.md) shows how to use them.
"""
_MEMBERS = "\n   :members:\n   :special-members: __call__"


def write_pages(source: Path) -> None:
    """Write the pages into the site's sources."""
    folder = source / "reference"
    modules = public_modules()
    for name in modules:
        (folder / f"{name}.md").write_text(_module(name))
    (folder / "hwsigner.md").write_text(_package(modules))
    about = {"hwsigner": "keys, certificates, sessions and providers."} | modules
    rows = [f"[`{name}`]({name}.md)\n: {plain(what)}" for name, what in about.items()]
    contents = ["```{toctree}", ":hidden:", "", *(f"{name} <{name}.md>" for name in about), "```", ""]
    (folder / "api.md").write_text("\n\n".join([_INTRODUCTION, *rows, "\n".join(contents)]))


def public_modules() -> dict[str, str]:
    """Return what each public module is for, from the package's docstring."""
    text = re.sub(r"\n +", " ", inspect.getdoc(hwsigner) or "")
    return dict(re.findall(r"`(hwsigner\.[\w.]+)`: ([^\n;]+)", text))


def _package(modules: dict[str, str]) -> str:
    parts = ["# Package hwsigner", "Import these names from `hwsigner` itself."]
    for name in sorted(hwsigner.__all__):
        home = f"hwsigner.{hwsigner._HOMES.get(name, '')}"
        if home in modules:
            parts.append(f"`{name}` is that of [`{home}`]({home}.md).")
        elif not name.startswith("__"):
            parts.append(fenced(_directive(name), "{eval-rst}"))
    return "\n\n".join([*parts, ""])


def _directive(name: str) -> str:
    found = getattr(hwsigner, name)
    if inspect.isclass(found):
        return f".. autoclass:: hwsigner.{name}{_MEMBERS}"
    return f".. auto{'function' if inspect.isfunction(found) else 'data'}:: hwsigner.{name}"


def _module(name: str) -> str:
    return "\n\n".join([f"# Module {name}", fenced(f".. automodule:: {name}{_MEMBERS}", "{eval-rst}"), ""])
