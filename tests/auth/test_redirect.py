"""Redirects: signed again within an origin, stripped elsewhere; ~/.netrc never replaces a signature."""

from __future__ import annotations

import copy
import io
import os
import pickle
from array import array
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import UnrewindableBodyError
from urllib3.util.retry import Retry

from auth.servers import KEY, ReadOnce, Received, Server
from hwsigner.auth import SigV4Auth
from loopback import ServerCA

S3 = SigV4Auth(KEY, "eu-west-1", "s3")
OTHER = SigV4Auth(KEY, "eu-west-1", "execute-api")
AUTHS = pytest.mark.parametrize("auth", [S3, OTHER], ids=["s3", "other"])
NETRC = "".join(f"machine {host} login somebody password secret\n" for host in ("127.0.0.1", "localhost"))


@pytest.fixture
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Write entries for both hosts to ~/.netrc."""
    path = tmp_path / "netrc"
    path.write_text(NETRC)
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    with Server() as running:
        yield running


def secrets(received: Received) -> list[str]:
    return [
        name for name, _ in received.headers if name.lower() == "authorization" or name.lower().startswith("x-amz-")
    ]


def test_netrc_does_not_replace_the_signature(server: Server, netrc: None) -> None:
    with requests.Session() as session:
        session.auth = S3
        session.get(server.url)
        assert server.last.is_signed()
        session.get(server.url, auth=OTHER)
        assert server.last.is_signed()
    requests.get(server.url)
    assert (server.last.header("Authorization") or "").startswith("Basic ")


@AUTHS
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("body", [None, b"abc", "text", "stream"])
def test_redirect_within_an_origin_is_signed_again(
    server: Server, netrc: None, auth: SigV4Auth, status: int, body: Any
) -> None:
    server.answers = {"/a": (status, "/b?q=x%20y"), "/b": (307, server.url + "/c/%7e[!]"), "/c/%7e[!]": (200, "")}
    data = io.BytesIO(b"abcdef") if body == "stream" else body
    if body == "stream":
        data.read(2)
    answer = requests.put(server.url + "/a", data=data, auth=auth, headers={"Content-Type": "a/b"}, timeout=60)
    assert [received.is_signed() for received in server.received] == [True] * 3
    kept = status in (307, 308)
    assert server.last.method == ("GET" if status in (302, 303) else "PUT")
    first = server.received[0].body
    assert [received.body for received in server.received] == [first, first if kept else b"", first if kept else b""]
    assert [found.status_code for found in answer.history] == [status, 307]


@AUTHS
def test_redirect_to_another_origin_carries_no_signature(server: Server, elsewhere: Server, auth: SigV4Auth) -> None:
    headers = {"X-Amz-Server-Side-Encryption-Customer-Key": "secret", "X-Other": "1"}
    for status in (302, 307):
        for url in (elsewhere.url, f"http://localhost:{server.port}/b"):
            server.answers = {"/a": (status, url)}
            requests.put(server.url + "/a", data=b"abc", auth=auth, headers=headers, timeout=60)
            target = elsewhere if url == elsewhere.url else server
            assert secrets(target.last) == []
            assert target.last.header("X-Other") == "1"
            assert target.last.body == (b"abc" if status == 307 else b"")


def test_netrc_applies_to_another_origin(server: Server, elsewhere: Server, netrc: None) -> None:
    server.answers = {"/a": (302, elsewhere.url)}
    requests.get(server.url + "/a", auth=S3, timeout=60)
    assert server.received[0].is_signed()
    assert secrets(elsewhere.last) == ["Authorization"]
    assert (elsewhere.last.header("Authorization") or "").startswith("Basic ")


def test_redirect_back_from_another_origin_is_not_signed(server: Server, elsewhere: Server) -> None:
    server.answers = {"/a": (307, "/b"), "/b": (307, elsewhere.url + "/c")}
    elsewhere.answers = {"/c": (307, server.url + "/d")}
    requests.get(server.url + "/a", auth=S3, timeout=60)
    assert [received.is_signed() for received in server.received] == [True, True, False]
    assert secrets(elsewhere.last) == secrets(server.last) == []


def test_https_and_http_are_different_origins(server: Server, tmp_path: Path) -> None:
    ca = ServerCA(tmp_path)
    with Server(context=ca.context("127.0.0.1")) as tls:
        tls.answers = {"/a": (307, server.url), "/c": (307, "/d")}
        server.answers = {"/b": (307, tls.url)}
        requests.get(tls.url + "/a", auth=S3, timeout=60, verify=str(ca.path))
        assert secrets(server.last) == []
        requests.get(server.url + "/b", auth=S3, timeout=60, verify=str(ca.path))
        assert secrets(tls.last) == []
        requests.put(
            tls.url + "/c", auth=SigV4Auth(KEY, "r", "s3", unsigned_payload=True), data=b"x", verify=str(ca.path)
        )
        assert tls.last.target == "/d"
        assert tls.last.is_signed()


@pytest.mark.parametrize("location", ["?next=/admin", "#/admin?delete=1", "?a#/admin", "#a=/admin"])
@AUTHS
def test_redirect_target_gets_a_slash_when_it_has_no_path(server: Server, auth: SigV4Auth, location: str) -> None:
    server.answers = {"/a": (307, server.url + location)}
    requests.get(server.url + "/a", auth=auth, timeout=60)
    assert server.last.target == "/" + location.partition("#")[0]
    assert server.last.is_signed()


@pytest.mark.parametrize("location", ["http://127.0.0.1:999999/", "http://[::1/", "ftp://a.example/"])
def test_redirect_to_an_invalid_url_is_not_followed(server: Server, location: str) -> None:
    server.answers = {"/a": (307, location)}
    with pytest.raises((requests.RequestException, ValueError)):
        requests.get(server.url + "/a", auth=S3, timeout=60)
    assert len(server.received) == 1


BODIES_THAT_ARE_GONE: dict[str, Callable[[], Any]] = {
    "iterator": lambda: iter([b"abc"]),
    "stream": lambda: ReadOnce(b"abc"),
}


@AUTHS
@pytest.mark.parametrize("name", BODIES_THAT_ARE_GONE)
def test_redirect_fails_when_its_body_can_not_be_sent_again(server: Server, auth: SigV4Auth, name: str) -> None:
    server.answers = {"/a": (307, "/b"), "/c": (303, "/d")}
    body = BODIES_THAT_ARE_GONE[name]
    unsigned = {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}
    with pytest.raises(UnrewindableBodyError):
        requests.put(server.url + "/a", data=body(), headers=unsigned, auth=auth, timeout=60)
    assert [received.target for received in server.received] == ["/a"]
    requests.put(server.url + "/c", data=body(), headers=unsigned, auth=auth, timeout=60)
    assert server.last.target == "/d"
    assert server.last.is_signed()


@AUTHS
@pytest.mark.parametrize("hash_", ["UNSIGNED-PAYLOAD", None])
@pytest.mark.parametrize("body", [b"abc", "abc", io.BytesIO(b"abc")])
def test_redirected_body_is_sent_again_whether_its_hash_is_given_or_not(
    server: Server, auth: SigV4Auth, hash_: str | None, body: Any
) -> None:
    server.answers = {"/a": (307, "/b"), "/b": (308, "/c")}
    if hasattr(body, "seek"):
        body.seek(0)
    requests.put(server.url + "/a", data=body, headers={"X-Amz-Content-SHA256": hash_}, auth=auth, timeout=60)
    assert [received.body for received in server.received] == [b"abc"] * 3
    assert all(received.is_signed() for received in server.received)


@AUTHS
@pytest.mark.parametrize("body", [bytearray(b"abc"), memoryview(b"abc"), array("B", b"abc")])
def test_redirected_buffer_is_sent_again(server: Server, auth: SigV4Auth, body: Any) -> None:
    server.answers = {"/a": (307, "/b")}
    requests.put(server.url + "/a", data=body, auth=auth, timeout=60)
    assert [received.body for received in server.received] == [b"abc"] * 2
    assert server.last.is_signed()


def test_next_request_is_signed_when_the_caller_follows_a_redirect(server: Server) -> None:
    server.answers = {"/a": (307, "/b")}
    answer = requests.put(server.url + "/a", data=b"abc", auth=OTHER, allow_redirects=False, timeout=60)
    assert answer.status_code == 307
    assert len(server.received) == 1
    assert answer.next is not None
    requests.Session().send(answer.next)
    assert server.last.target == "/b"
    assert server.last.is_signed()


def test_each_redirect_is_signed_with_its_own_time(server: Server) -> None:
    times = count(1_000_000_000, 43_200)
    auth = SigV4Auth(KEY, "eu-west-1", "s3", clock=lambda: next(times))
    server.answers = {"/a": (307, "/b"), "/b": (307, "/c")}
    requests.get(server.url + "/a", auth=auth, timeout=60)
    dates = [received.header("X-Amz-Date") or "" for received in server.received]
    assert dates[0] == "20010909T014640Z"
    assert dates == sorted(set(dates))
    assert all(received.is_signed() for received in server.received)


def test_given_hash_follows_a_redirect_only_with_its_body(server: Server) -> None:
    server.answers = {"/a": (307, "/b"), "/b": (303, "/c")}
    requests.put(
        server.url + "/a", data=b"abc", headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}, auth=S3, timeout=60
    )
    hashes = [received.header("X-Amz-Content-SHA256") for received in server.received]
    assert hashes[:2] == ["UNSIGNED-PAYLOAD"] * 2
    assert (hashes[2] or "").startswith("e3b0c442")
    assert all(received.is_signed() for received in server.received)


def test_signed_cookies_follow_a_redirect(server: Server) -> None:
    server.answers = {"/a": (302, "/b")}
    auth = SigV4Auth(KEY, "eu-west-1", "s3", also_sign="*")
    requests.get(server.url + "/a", auth=auth, cookies={"c": "1"}, timeout=60)
    assert [received.header("Cookie") for received in server.received] == ["c=1", "c=1"]
    assert all(received.is_signed() for received in server.received)


def test_urllib3_retries_are_signed(server: Server) -> None:
    server.answers = {"/a": (503, "")}
    with requests.Session() as session:
        retries = Retry(2, status_forcelist=[503], allowed_methods=None, raise_on_status=False, backoff_factor=0)
        session.mount("http://", HTTPAdapter(max_retries=retries))
        session.put(server.url + "/a", data=io.BytesIO(b"abc"), auth=S3, timeout=60)
    assert [received.body for received in server.received] == [b"abc"] * 3
    assert all(received.is_signed() for received in server.received)


def test_copied_and_pickled_requests_are_signed_again(server: Server) -> None:
    prepared = requests.Request("PUT", server.url + "/a", data=b"abc", auth=S3).prepare()
    copied = prepared.copy()
    copied.url = server.url + "/b"
    copied.body = b"other"
    copied.headers["Content-Length"] = "5"
    with requests.Session() as session:
        session.auth = S3
        session.send(S3(copied))
        assert server.last.is_signed()
        assert KEY.secret_access_key.encode() not in pickle.dumps(prepared)
        session.send(pickle.loads(pickle.dumps(prepared)))
        assert server.last.is_signed()
        answer = pickle.loads(pickle.dumps(session)).get(server.url)
        assert server.last.is_signed()
        assert pickle.loads(pickle.dumps(answer)).request.headers == answer.request.headers


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda prepared: pickle.loads(pickle.dumps(prepared)),
    "twice": lambda prepared: copy.copy(pickle.loads(pickle.dumps(prepared))),
    "its own": lambda prepared: prepared.copy(),
}


@AUTHS
@pytest.mark.parametrize("name", COPIES)
def test_copy_takes_no_secret_to_another_origin(server: Server, elsewhere: Server, auth: SigV4Auth, name: str) -> None:
    server.answers = {"/a": (307, elsewhere.url + "/b")}
    prepared = requests.Request("PUT", server.url + "/a", data=b"abc", auth=auth).prepare()
    requests.Session().send(COPIES[name](prepared))
    assert server.last.is_signed()
    assert elsewhere.last.body == b"abc"
    assert secrets(elsewhere.last) == []


@pytest.mark.parametrize("name", COPIES)
def test_copy_is_signed_within_an_origin_only_when_it_has_its_auth(server: Server, name: str) -> None:
    server.answers = {"/a": (307, "/b")}
    prepared = requests.Request("PUT", server.url + "/a", data=b"abc", auth=S3).prepare()
    requests.Session().send(COPIES[name](prepared))
    # Without its auth the copy is not signed, also not for the other path.
    assert server.last.is_signed() == (name == "its own")
    assert bool(secrets(server.last)) == (name == "its own")


def test_deep_copy_can_be_signed_again(server: Server) -> None:
    copied = copy.deepcopy(requests.Request("PUT", server.url, data=b"abc", auth=S3).prepare())
    copied.body = b"abd"
    requests.Session().send(S3(copied))
    assert server.last.is_signed()


def test_request_has_no_signature_when_prepared_again_without_auth(server: Server) -> None:
    prepared = requests.Request("POST", server.url + "/a", data=b"abc", auth=S3).prepare()
    prepared.prepare("PUT", server.url + "/b", data=b"other", cookies={"a": "b"})
    requests.Session().send(prepared)
    assert secrets(server.last) == []
    prepared.prepare("PUT", server.url + "/b", data=b"other", auth=OTHER)
    requests.Session().send(prepared)
    assert server.last.is_signed()
    assert server.last.header("X-Amz-Content-SHA256") is None


def test_another_auth_can_replace_the_signature(server: Server) -> None:
    prepared = requests.Request("GET", server.url, auth=S3).prepare()
    prepared.prepare_auth(("somebody", "secret"))
    assert str(prepared.headers["Authorization"]).startswith("Basic ")
    prepared.prepare_auth(OTHER)
    requests.Session().send(prepared)
    assert server.last.is_signed()


def test_tests_run_without_a_netrc_file() -> None:
    assert not os.path.exists(os.path.expanduser("~/.netrc"))
