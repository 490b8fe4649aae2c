"""What travels between a machine and the registrar: one text for each message, and strict about it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.enrolment.registrar_messages import decode, encode, read_object, write_object


@given(st.binary(min_size=1, max_size=100))
def test_bytes_are_read_as_they_were_written(data: bytes) -> None:
    assert decode(encode(data)) == data


@given(st.text("AQgw+/=\n -_", max_size=9))
def test_no_two_texts_are_read_as_the_same_bytes(text: str) -> None:
    try:
        data = decode(text)
    except ValueError:
        return
    assert encode(data) == text


@pytest.mark.parametrize("text", ["", "eR==", "eQ", "eQ==\n", "e Q==", "e_A=", "eQ==eQ==", 1, None, ["eQ=="]])
def test_other_base64_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="not base64"):
        decode(text)


def test_object_has_exactly_its_members_each_once() -> None:
    assert read_object(write_object({"a": 1, "b": "x"}), "a", "b") == {"a": 1, "b": "x"}
    for data in (
        b'{"a": 1}',
        b'{"a": 1, "b": 2, "c": 3}',
        b'{"a": 1, "b": 2, "b": 2}',
        b'{"a": 1, "b": {"c": 1, "c": 1}}',
    ):
        with pytest.raises(ValueError, match=r"member"):
            read_object(data, "a", "b")


@given(
    st.binary(max_size=60) | st.recursive(st.none() | st.text(), st.lists).map(lambda value: json.dumps(value).encode())
)
def test_anything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="it is not"):
        read_object(data, "a")
