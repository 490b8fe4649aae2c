"""TOML files: what is wrong with one, where, and what to do, without its text."""

from __future__ import annotations

import pytest

from hwsigner.errors import ConfigError
from hwsigner.system.toml import parse_toml

TABLE = b'[profile.web]\nprivate-key = "hush"\n'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf" + TABLE, "F begins with a byte order mark. Save it in an editor as UTF-8 without one"),
        (TABLE + b"# hush\xe9\n", "F is not UTF-8 text at line 3. Save it in an editor as UTF-8"),
        (TABLE.decode().encode("utf-16"), "F is not UTF-8 text at line 1. Save it in an editor as UTF-8"),
        (TABLE * 2, "F is not TOML at line 3, column 13. That table is there twice: merge the two"),
        (
            TABLE + b'private-key = "hush"\n',
            "F is not TOML at line 3, column 21. That key is there twice: remove one of the two",
        ),
        (b"a = hush", 'F is not TOML at line 1, column 5. Write KEY = "VALUE": a text needs quotes'),
        (b"a = 'hush\"\nb = 1", "F is not TOML at end of document. A text needs the same quotes at both ends"),
        (b'a = "hush\nb = 1', "F is not TOML at line 1, column 10. A text needs the same quotes at both ends"),
        (b"hush\n", 'F is not TOML at line 1, column 5. Write KEY = "VALUE"'),
        (
            b"[profile hush]\n",
            "F is not TOML at line 1, column 10. The name of a table is in brackets, and has no spaces",
        ),
        (TABLE.replace(b"\n", b"\r\r\n"), "F is not TOML at line 1, column 14. Fix it in an editor"),
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
