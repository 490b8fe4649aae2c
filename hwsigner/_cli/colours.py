"""How text for people looks: indented paragraphs, and colours by the conventions, on a terminal only by default."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping
from typing import TextIO

from hwsigner.errors import printable

RED, GREEN, YELLOW = 31, 32, 33  # ECMA-48, SGR.
_WIDTH = 80


def has_colours(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether a stream gets colours.

    It gets none with NO_COLOR or TERM=dumb, else some with FORCE_COLOR or CLICOLOR_FORCE, else if it is a terminal. An
    empty variable is like none, and 0 in the last two also.
    """
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    forced = any(environ.get(name, "") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE"))
    return forced or stream.isatty()


def coloured(text: str, colour: int) -> str:
    """Return text for stdout, in a colour if stdout has colours."""
    return f"\x1b[{colour}m{text}\x1b[0m" if has_colours(sys.stdout, os.environ) else text


def indented(text: str) -> str:
    """Return a paragraph of a report, indented, in lines of 80 columns where words allow it."""
    wrapper = textwrap.TextWrapper(
        _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return wrapper.fill(printable(text))
