"""TOML files: what is wrong with one, where, and what to do, without its text."""

from __future__ import annotations

import pytest

from hwsigner._system.toml import parse_toml
from hwsigner.errors import ConfigError

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
        (b"[profile a]\nk = hush", "F is not TOML at line 1, column 10. Write [profile.a], not [profile a]"),
        (TABLE.replace(b"\n", b"\r\r\n"), f"F is not TOML at line 1, column 14. {HINT}"),
    ],
)
def test_error_says_where_the_mistake_is_and_what_to_do(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_toml(data, "F")
    assert str(caught.value) == message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("number", ["0x" + "f" * 4000, "-9223372036854775809", "9223372036854775808", "0b1" + "0" * 64])
def test_number_of_more_than_64_bits_is_an_error(number: str) -> None:
    for data in (f"a = {number}", f"[b]\na = [[1], [{{c = {number}}}]]"):
        with pytest.raises(ConfigError, match="F has a number of more than 64 bits"):
            parse_toml(data.encode(), "F")


def test_largest_numbers_are_read() -> None:
    assert parse_toml(b"a = [0x7fffffffffffffff, -9223372036854775808, 1e400, true]", "F")["a"][:2] == [
        2**63 - 1,
        -(2**63),
    ]


@pytest.mark.parametrize(
    "data", [".".join("a" * 3000) + " = 1", f"[{'.'.join('a' * 3000)}]", "a=" + "[" * 101 + "]" * 101]
)
def test_tables_3000_deep_are_an_error(data: str) -> None:
    with pytest.raises(ConfigError, match="F has more than 100 nested tables"):
        parse_toml(data.encode(), "F")


def test_windows_line_ends_and_tabs_are_read() -> None:
    assert parse_toml(TABLE.replace(b"\n", b"\r\n").replace(b" ", b"\t"), "F")["profile"]["web"] == {
        "private-key": "hush"
    }
