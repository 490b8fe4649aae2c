"""Sphinx's settings for the site. build_site.py starts Sphinx with them."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from hwsigner import __version__

_SHORT = 32  # letters
_DRAWN = re.compile("[─│┃━▶▼]")
_COLON = "\N{MODIFIER LETTER COLON}"

project = "hwsigner"
version = release = __version__
html_title = f"hwsigner {__version__}"
language = "en"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
highlight_language = "text"
smartquotes = False  # -- is a flag's
suppress_warnings = ["misc.highlighting_failure"]  # The pages leave lines out with …

copybutton_selector = ", ".join(f"div.highlight-{kind} pre" for kind in ("sh", "python", "ini", "yaml", "toml"))

default_role = "code"  # of the docstrings
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_css_files = ["style.css"]
html_js_files = ["messages.js"]
html_search_scorer = str(Path(__file__).parent / "scorer.js")
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = False
html_domain_indices = False
pygments_style = "a11y-light"
pygments_dark_style = "monokai"


def setup(app: Sphinx) -> None:
    """Have autodoc read docstrings as hwsigner writes them, keep short code together, wrap output, describe pages."""
    app.connect("doctree-read", _mark_short_code)
    app.connect("doctree-read", _mark_output)
    app.connect("doctree-read", _set_dashes)
    app.connect("html-page-context", _describe)
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    app.connect("autodoc-skip-member", _skip_fields)


def _mark_short_code(app: Sphinx, page: nodes.document) -> None:
    """Give code in a line a class if it, or each word of it, is short: a browser would break --pin-policy at a dash."""
    for code in page.findall(nodes.literal):
        text = code.astext()
        if len(text) <= _SHORT:
            code["classes"].append("short")
        elif max(map(len, text.split())) <= _SHORT:
            code["classes"].append("short-words")


def _mark_output(app: Sphinx, page: nodes.document) -> None:
    """Give the output of commands a class, so that long lines wrap as in a terminal. Drawings keep their lines."""
    for block in page.findall(nodes.literal_block):
        if block.get("language") == "text" and not _DRAWN.search(block.astext()):
            block["classes"].append("output")


def _set_dashes(app: Sphinx, page: nodes.document) -> None:
    """Set a dash between an argument and what it is: Sphinx writes two hyphens there."""
    for text in list(page.findall(lambda node: isinstance(node, nodes.Text) and node == " -- ")):
        text.parent.replace(text, nodes.Text(" – "))


def _describe(app: Sphinx, name: str, template: str, context: dict[str, Any], page: nodes.document | None) -> None:
    """Give a page the description that search engines show: its first paragraph."""
    if page and (first := next(page.findall(nodes.paragraph), None)):
        words = escape(" ".join(first.astext().split()))
        context["metatags"] += f'<meta name="description" content="{words}" />'


def _before_napoleon(app: Sphinx, kind: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Escape a * outside of code, and hide the colons of properties: napoleon takes the words before one for a type."""
    lines[:] = [re.sub(r"(`[^`]*`)|\*", lambda match: match[1] or r"\*", line) for line in lines]
    if kind in ("property", "attribute", "data"):
        lines[:] = [line.replace(":", _COLON) for line in lines]


def _after_napoleon(app: Sphinx, kind: str, name: str, found: object, options: object, lines: list[str]) -> None:
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def _skip_fields(app: Sphinx, kind: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples: their class's docstring describes them."""
    return True if type(member).__name__ == "_tuplegetter" else None
