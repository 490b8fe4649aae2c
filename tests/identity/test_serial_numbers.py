"""Serial numbers as openssl prints them, and those that can be read in two ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import certs
from backends.file.keyfiles import openssl
from hwsigner._identity.serial_numbers import parse_serial, serial_text
from hwsigner.errors import UsageError


@pytest.mark.parametrize(
    ("text", "serial"),
    [
        ("1000", 1000), ("0", 0), ("03:E8", 1000), ("03:e8", 1000), ("0x3e8", 1000), ("0X03E8", 1000),
        ("serial=03E8", 1000), ("1000 (0x3e8)", 1000), (" 1000\n", 1000), ("10:00", 0x1000),
    ],
)  # fmt: skip
def test_serial_number_is_read_in_each_form(text: str, serial: int) -> None:
    assert parse_serial(text) == serial


@pytest.mark.parametrize("text", ["5F3A", "abc", "0123", "00", "1e5"])
def test_serial_number_that_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"hexadecimal or decimal. Write 0x{text}"):
        parse_serial(text)


@pytest.mark.parametrize(
    "text", ["", "-1", "0x", "03:E", "3:E8", "1000 (0x3e9)", "x", "1 0", "1" * 99, "٣", "0x" + "f" * 41]
)
def test_what_is_not_a_serial_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_serial(text)


@given(st.integers(256, (1 << 160) - 1))
def test_written_serial_number_is_read_again(serial: int) -> None:
    assert parse_serial(serial_text(serial)) == parse_serial(str(serial)) == parse_serial(hex(serial)) == serial


@pytest.mark.parametrize("serial", [1, 9, 0x80, 0x1000, 1 << 70, (1 << 150) + 12345])
def test_what_openssl_prints_is_read(ca: certs.Authority, tmp_path: Path, serial: int) -> None:
    path = tmp_path / "leaf.pem"
    path.write_bytes(certs.pem(certs.issue(ca, ca.key.public_key(), certs.Shape(serial=serial))))
    assert parse_serial(openssl("x509", "-serial", "-noout", "-in", str(path)).decode()) == serial
    text = openssl("x509", "-text", "-noout", "-in", str(path)).decode()
    lines = [line.strip() for line in text.splitlines()]
    line = next(number for number, each in enumerate(lines) if each.startswith("Serial Number:"))
    assert parse_serial(lines[line].removeprefix("Serial Number:") or lines[line + 1]) == serial
