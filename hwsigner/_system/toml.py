"""TOML files, with errors that show none of their text, which may hold a PIN."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from hwsigner.errors import ConfigError

_DEEPEST = 100  # Nested tables and arrays. Python's libraries fail at about a thousand.
_HINT = 'Write KEY = "VALUE" with the quotes, and each table and key once'


def parse_toml(data: bytes, path: str, *, hint: str = _HINT) -> dict[str, Any]:
    """Parse a TOML file."""
    if data.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{path} begins with a byte order mark", "Save it in an editor as UTF-8 without one")
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} is not UTF-8 text at line {line}", "Save it in an editor as UTF-8") from None
    except (ValueError, RecursionError) as error:  # Not chained: the exception may quote the file.
        place = re.search(r"at (line \d+, column \d+|end of document)", str(error))
        problem = f"{path} is not TOML {place[0] if place else ''}".rstrip()
        raise ConfigError(problem, _table_of_sdks(data) or hint) from None
    _check_values(document, path)
    return document


def _table_of_sdks(data: bytes) -> str:
    """Return a hint for `[profile web]`, as the SDKs' files have it; an empty text if there is none."""
    found = re.search(rb"""^[ \t]*\[[ \t]*profile[ \t]+["']?([\w.@-]+)["']?[ \t]*\]""", data, re.MULTILINE)
    if found is None:
        return ""
    name = found[1].decode()
    quoted = name if re.fullmatch(r"[\w-]+", name) else f'"{name}"'
    return f"Write [profile.{quoted}], not [profile {name}]"


def _check_values(document: dict[str, Any], path: str) -> None:
    """Check for numbers and depths that tomllib reads, and that fail wherever they are used."""
    level: list[Any] = [document]
    for _ in range(_DEEPEST):
        if [value for value in level if isinstance(value, int) and not -(2**63) <= value < 2**63]:
            raise ConfigError(f"{path} has a number of more than 64 bits", "Correct it: numbers in TOML have 64 bits")
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise ConfigError(f"{path} has more than {_DEEPEST} nested tables", "Write [profile.NAME] and its keys")
