"""Bodies: the hash is that of what is sent, streams are rewound, and large bodies are not read into memory."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from auth.servers import KEY, ReadOnce, Server
from hwsigner.auth import SigV4Auth
from hwsigner.auth.payload import hash_body
from hwsigner.errors import UsageError
from loopback import ServerCA

S3 = SigV4Auth(KEY, "eu-west-1", "s3")
OTHER = SigV4Auth(KEY, "eu-west-1", "execute-api")
HASH = "X-Amz-Content-SHA256"


def advanced(stream: Any) -> Any:
    stream.read(2)
    return stream


def mapped() -> mmap.mmap:
    made = mmap.mmap(-1, 8)
    made.write(b"abcdefgh")
    made.seek(1)
    return made


BODIES: dict[str, tuple[Callable[[], Any], bytes]] = {
    "none": (lambda: None, b""),
    "bytes": (lambda: b"\xff\x00", b"\xff\x00"),
    "text": (lambda: "é€", "é€".encode()),
    "form": (lambda: {"a": "é b"}, b"a=%C3%A9+b"),
    "bytearray": (lambda: bytearray(b"abc"), b"abc"),
    "memoryview": (lambda: memoryview(b"abc"), b"abc"),
    "array": (lambda: array("B", b"abc"), b"abc"),
    "stream": (lambda: io.BytesIO(b"abcdef"), b"abcdef"),
    "stream in its middle": (lambda: advanced(io.BytesIO(b"abcdef")), b"cdef"),
    "text stream": (lambda: io.StringIO("abc"), b"abc"),
    "mmap": (mapped, b"bcdefgh"),
}


@pytest.mark.parametrize("auth", [S3, OTHER], ids=["s3", "other"])
@pytest.mark.parametrize("name", BODIES)
def test_body_of_any_kind_is_sent_and_signed(server: Server, name: str, auth: SigV4Auth) -> None:
    make, sent = BODIES[name]
    requests.put(server.url, data=make(), auth=auth, timeout=60)
    assert server.last.body == sent
    assert server.last.is_signed()
    assert server.last.header(HASH) == (hashlib.sha256(sent).hexdigest() if auth is S3 else None)


def test_file_is_signed_from_its_position(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (2 << 20) + b"y")
    with path.open("rb") as file:
        file.seek(1)
        requests.put(server.url, data=file, auth=S3, timeout=60)
    assert len(server.last.body) == 2 << 20
    assert server.last.is_signed()
    with path.open("rb") as file:
        requests.post(server.url, files={"f": file}, json={"a": 1}, auth=OTHER, timeout=60)
    assert server.last.is_signed()
    requests.post(server.url, json={"é": 1}, auth=OTHER, timeout=60)
    assert server.last.is_signed()


@pytest.mark.slow
def test_big_file_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 100 << 20)
    with path.open("rb") as file:
        tracemalloc.start()
        prepared = requests.Request("PUT", "https://b.example/k", data=file, auth=S3).prepare()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert file.tell() == 0
    assert peak < 4 << 20
    assert prepared.headers[HASH] == "20492a4d0d84f8beb1767f6616229f85d44c2827b64bdbfb260ee12fa1109e0e"
    assert prepared.headers["Content-Length"] == str(100 << 20)


def pipe() -> Any:
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    os.close(writer)
    return os.fdopen(reader, "rb")


ONCE: dict[str, Callable[[], Any]] = {
    "generator": lambda: iter([b"ab", b"c"]),
    "read without seek": lambda: ReadOnce(b"abc"),
    "pipe": pipe,
}


@pytest.mark.parametrize("name", ONCE)
def test_one_pass_body_is_sent_unsigned_over_https_to_s3(tmp_path: Path, name: str) -> None:
    body = ONCE[name]()
    assert hash_body(body) is None
    ca = ServerCA(tmp_path)
    with Server(context=ca.context("127.0.0.1")) as server:
        requests.put(server.url, data=body, auth=S3, timeout=60, verify=str(ca.path))
    assert server.last.body == b"abc"
    assert server.last.header(HASH) == "UNSIGNED-PAYLOAD"
    assert server.last.is_signed()
    if hasattr(body, "close"):
        body.close()


@pytest.mark.parametrize(
    ("auth", "url", "message"),
    [
        (S3, "http://b.example", "plain http"),
        (OTHER, "http://b.example", "only once"),
        (OTHER, "https://b.example", "only once"),
    ],
)
def test_one_pass_body_is_refused_when_it_must_be_signed(auth: SigV4Auth, url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        requests.Request("PUT", url, data=iter([b"abc"]), auth=auth).prepare()
    assert HASH in raised.value.hint


def test_unsigned_payload_leaves_the_body_unsigned_over_https_only() -> None:
    unsigned = SigV4Auth(KEY, "eu-west-1", "s3", unsigned_payload=True)
    for data in (None, b"abc", io.BytesIO(b"abc")):
        prepared = requests.Request("PUT", "https://b.example", data=data, auth=unsigned).prepare()
        assert prepared.headers[HASH] == "UNSIGNED-PAYLOAD"
    with pytest.raises(UsageError, match="plain http"):
        requests.Request("PUT", "http://b.example", data=b"abc", auth=unsigned).prepare()
    prepared = requests.Request("GET", "http://b.example", auth=unsigned).prepare()
    assert prepared.headers[HASH] == "UNSIGNED-PAYLOAD"


@pytest.mark.parametrize("auth", [S3, OTHER], ids=["s3", "other"])
@pytest.mark.parametrize("value", ["UNSIGNED-PAYLOAD", b"UNSIGNED-PAYLOAD", hashlib.sha256(b"abc").hexdigest()])
def test_body_is_not_read_when_its_hash_is_given(server: Server, auth: SigV4Auth, value: str | bytes) -> None:
    headers = {HASH.lower(): value, "Content-Length": "3"}
    requests.put(server.url, data=ReadOnce(b"abc"), headers=headers, auth=auth, timeout=60)
    assert server.last.header(HASH) == (value if isinstance(value, str) else value.decode())
    assert server.last.body == b"abc"
    assert server.last.is_signed()


@pytest.mark.parametrize("auth", [S3, OTHER], ids=["s3", "other"])
@pytest.mark.parametrize("value", ["UNSIGNED-PAYLOAD ", "UNSIGNED-PAYLOAD \t", b"UNSIGNED-PAYLOAD  ", "", b"", " \t"])
def test_given_hash_is_sent_without_white_space(server: Server, auth: SigV4Auth, value: Any) -> None:
    prepared = requests.Request("PUT", server.url, data=b"abc").prepare()
    prepared.headers[HASH] = value
    requests.Session().send(auth(prepared))
    own = hashlib.sha256(b"abc").hexdigest() if auth is S3 else None
    assert server.last.header(HASH) == (own if not value.strip() else "UNSIGNED-PAYLOAD")
    assert server.last.is_signed()


@pytest.mark.parametrize("auth", [S3, OTHER], ids=["s3", "other"])
def test_hash_given_after_signing_replaces_the_computed_one(server: Server, auth: SigV4Auth) -> None:
    prepared = requests.Request("PUT", server.url, data=b"abc", auth=auth).prepare()
    prepared.headers[HASH] = "UNSIGNED-PAYLOAD"
    for _ in range(2):
        requests.Session().send(auth(prepared))
        assert server.last.header(HASH) == "UNSIGNED-PAYLOAD"
        assert server.last.is_signed()
    del prepared.headers[HASH]
    prepared.body = b"abd"
    requests.Session().send(auth(prepared))
    assert server.last.header(HASH) == (hashlib.sha256(b"abd").hexdigest() if auth is S3 else None)
    assert server.last.is_signed()


@pytest.mark.parametrize("auth", [S3, OTHER], ids=["s3", "other"])
def test_text_body_is_encoded_also_when_its_hash_is_given(auth: SigV4Auth) -> None:
    prepared = requests.Request("PUT", "https://b.example/k", data="é", headers={HASH: "UNSIGNED-PAYLOAD"}).prepare()
    auth(prepared)
    assert (prepared.body, prepared.headers["Content-Length"]) == ("é".encode(), "2")


@pytest.mark.parametrize("auth", [S3, OTHER], ids=["s3", "other"])
def test_given_hash_is_refused_when_it_is_not_text(auth: SigV4Auth) -> None:
    prepared: Any = requests.Request("PUT", "https://b.example/k", data=b"abc").prepare()
    prepared.headers[HASH] = 1
    with pytest.raises(UsageError, match="can't be signed"):
        auth(prepared)


# Streams that do not do what they promise.


class Stuck(io.BytesIO):
    """A stream whose `seek` does nothing."""

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.tell()


class Lame:
    """A stream without a position to return to."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("not to be read")

    def tell(self) -> int:
        raise self._error


def test_stream_is_refused_when_it_can_not_be_rewound() -> None:
    with pytest.raises(UsageError, match="does not go back"):
        requests.Request("PUT", "https://b.example/k", data=Stuck(b"abc"), auth=S3).prepare()


@pytest.mark.parametrize("error", [ValueError("closed"), TypeError(), AttributeError(), OSError()])
def test_stream_without_a_position_counts_as_one_pass(error: Exception) -> None:
    assert hash_body(Lame(error)) is None


def test_closed_file_is_not_hashed() -> None:
    closed: Any = io.BytesIO(b"abc")
    closed.close()
    prepared = requests.Request("PUT", "https://b.example/k").prepare()
    prepared.body = closed
    with pytest.raises(UsageError, match="only once"):
        OTHER(prepared)


def test_buffer_is_refused_when_it_is_not_contiguous() -> None:
    with pytest.raises(UsageError, match="in pieces"):
        requests.Request("PUT", "https://b.example/k", data=memoryview(b"abcdef")[::2], auth=S3).prepare()


def test_text_body_is_refused_when_utf_8_can_not_encode_it() -> None:
    prepared = requests.Request("PUT", "https://b.example/k").prepare()
    prepared.body = "\ud800"
    with pytest.raises(UsageError, match="surrogates"):
        S3(prepared)


@given(st.text(max_size=40), st.integers(0, 20), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "shift_jisx0213"]))
def test_text_file_is_hashed_from_its_position_and_rewound(text: str, start: int, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(text.encode(encoding, "replace")), encoding=encoding, newline="")
    stream.read(start)
    hashed = hash_body(stream)
    assert hashed == hashlib.sha256(stream.read().encode()).hexdigest()
