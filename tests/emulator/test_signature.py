"""The emulator's canonical request, with botocore as the judge, and how it parses Authorization."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import client
from examples import scaled
from hwsigner.emulator.canonical import canonical_request
from hwsigner.emulator.signature import SignatureError, parse_authorization
from hwsigner.emulator.wire import Request

SEGMENTS = st.text("abZ09-._~%2F+=:,@$é ", max_size=6)
VALUES = st.text("ab\t ,;=~é", max_size=12).map(str.strip)


def wire(text: str) -> str:
    """Return text as a client may send it: only characters that are not allowed are encoded."""
    return re.sub(r"[^!-~]|%", lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


def encoded(text: str) -> str:
    return "".join(c if re.match(r"[A-Za-z0-9._~-]", c) else wire_byte(c) for c in text)


def wire_byte(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


PATHS = st.lists(SEGMENTS, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(map(wire, parts)))
PARTS = st.text("abZ09-._~%2F+=:,@$é ", max_size=6).map(encoded)
PAIRS = st.lists(st.tuples(PARTS.filter(bool), PARTS), max_size=5)
QUERIES = PAIRS.map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
HEADERS = st.lists(st.tuples(st.sampled_from(["Host", "X-Amz-A", "x-amz-b", "Content-Type"]), VALUES), max_size=6)


@pytest.mark.slow
@settings(max_examples=scaled(500))
@given(PATHS, QUERIES, HEADERS, st.binary(max_size=20))
def test_canonical_request_equals_botocores(path: str, query: str, headers: list[tuple[str, str]], body: bytes) -> None:
    headers = [("Host", "localhost"), *headers]  # botocore signs a Host header in any case
    names = sorted({name.lower() for name, _ in headers})
    target = f"{path}?{query}" if query else path
    wanted = client.canonical_request(client.Request("POST", target, tuple(headers), body), names)
    on_the_wire = tuple((name, value.encode().decode("latin-1")) for name, value in headers)
    assert canonical_request(Request("POST", target, on_the_wire, body), tuple(names)).decode() == wanted


def test_query_is_sorted_by_encoded_name_then_encoded_value() -> None:
    request = Request("GET", "/?b=2&a%5F=1&a=%C3%A9&a=z&a", ())
    assert canonical_request(request, ()).split(b"\n")[2] == b"a=&a=%C3%A9&a=z&a_=1&b=2"


GOOD = (
    "AWS4-X509-RSA-SHA256 Credential=1/20250101/us-east-1/rolesanywhere/aws4_request, SignedHeaders=a;b, Signature=00ff"
)


@pytest.mark.parametrize("text", [GOOD, GOOD.replace(", ", ",")])
def test_authorization_header_is_parsed(text: str) -> None:
    read = parse_authorization(Request("POST", "/", (("authorization", text),)))
    assert (read.algorithm, read.key_name, read.scope) == (
        "AWS4-X509-RSA-SHA256",
        "1",
        "20250101/us-east-1/rolesanywhere/aws4_request",
    )
    assert (read.signed_headers, read.signature) == (("a", "b"), b"\x00\xff")


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Authorization", GOOD), ("Authorization", GOOD)),
        (("Authorization", GOOD + ", Signature=00"),),
        (("Authorization", GOOD.replace("Credential", "credential")),),
        (("Authorization", GOOD.replace(", SignedHeaders=a;b", "")),),
        (("Authorization", GOOD.replace("/aws4_request", "")),),
        (("Authorization", GOOD.replace("aws4_request", "aws5_request")),),
        (("Authorization", GOOD.replace("us-east-1", "")),),
        (("Authorization", GOOD.replace("00ff", "00FF")),),
        (("Authorization", GOOD.replace("00ff", "0ff")),),
        (("Authorization", GOOD.replace("00ff", "")),),
    ],
)
def test_malformed_authorization_header_is_refused(headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(SignatureError):
        parse_authorization(Request("POST", "/", headers))
