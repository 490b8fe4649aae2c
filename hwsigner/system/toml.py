"""TOML files, with errors that show none of their text, which may hold a PIN."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from hwsigner.errors import ConfigError


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
        place = re.search(r"at (line \d+, column \d+|end of document)", str(error))
        hint = 'Write KEY = "VALUE" with the quotes, and each table and key once'
        raise ConfigError(f"{path} is not TOML {place[0] if place else ''}".rstrip(), hint) from None
