"""TOML files: what is wrong with one, where, and what to do, without its text."""

from __future__ import annotations

import pytest

from hwsigner.errors import ConfigError
from hwsigner.system.toml import parse_toml

TABLE = b'[profile.web]\nprivate-key = "hush"\n'
HINT = 'Write KEY = "VALUE" with the quotes, and each table and key once'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf" + TABLE, "F begins with a byte order mark. Save it in an editor as UTF-8 without one"),
        (TABLE + b"# hush\xe9\n", "F is not UTF-8 text at line 3. Save it in an editor as UTF-8"),
        (TABLE.decode().encode("utf-16"), "F is not UTF-8 text at line 1. Save it in an editor as UTF-8"),
        (TABLE * 2, f"F is not TOML at line 3, column 13. {HINT}"),
        (TABLE + b'private-key = "hush"\n', f"F is not TOML at line 3, column 21. {HINT}"),
        (b"a = hush", f"F is not TOML at line 1, column 5. {HINT}"),
        (b"a = 'hush\"\nb = 1", f"F is not TOML at end of document. {HINT}"),
        (b"hush\n", f"F is not TOML at line 1, column 5. {HINT}"),
        (b"[profile hush]\n", f"F is not TOML at line 1, column 10. {HINT}"),
        (TABLE.replace(b"\n", b"\r\r\n"), f"F is not TOML at line 1, column 14. {HINT}"),
    ],
)
def test_error_says_where_the_mistake_is_and_what_to_do(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_toml(data, "F")
    assert str(caught.value) == message
    assert caught.value.__cause__ is None


def test_windows_line_ends_and_tabs_are_read() -> None:
    assert parse_toml(TABLE.replace(b"\n", b"\r\n").replace(b" ", b"\t"), "F")["profile"]["web"] == {
        "private-key": "hush"
    }
