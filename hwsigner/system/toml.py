"""TOML files, with errors that show none of their text, which may hold a PIN."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from hwsigner.errors import ConfigError

# What to do, by how tomllib's message begins.
_HINTS = {
    "Cannot declare": "That table is there twice: merge the two",
    "Cannot overwrite": "That key is there twice: remove one of the two",
    "Invalid value": 'Write KEY = "VALUE": a text needs quotes',
    "Expected '='": 'Write KEY = "VALUE"',
    "Expected ']'": "The name of a table is in brackets, and has no spaces",
    'Expected "\'"': "A text needs the same quotes at both ends",
    "Illegal character '\\n'": "A text needs the same quotes at both ends",
    "Found invalid character '\\n'": "A text needs the same quotes at both ends",
    "Unterminated string": "A text needs the same quotes at both ends",
}


def parse_toml(data: bytes, path: str) -> dict[str, Any]:
    """Parse a TOML file.

    Args:
        data: its content.
        path: its path, for the error.

    Raises:
        ConfigError: it is not TOML.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{path} begins with a byte order mark", "Save it in an editor as UTF-8 without one")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} is not UTF-8 text at line {line}", "Save it in an editor as UTF-8") from None
    except (ValueError, RecursionError) as error:  # Not chained: the exception may quote the file.
        problem = str(error)
        place = re.search(r"at (line \d+, column \d+|end of document)", problem)
        hint = next((hint for begin, hint in _HINTS.items() if problem.startswith(begin)), "Fix it in an editor")
        raise ConfigError(f"{path} is not TOML {place[0] if place else ''}".rstrip(), hint) from None
