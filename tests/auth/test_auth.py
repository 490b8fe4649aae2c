"""The classes of `requests` authentication. Judges: botocore, and the emulator's strict verifier."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.auth
import pytest
import requests
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.asymmetric import ec

from auth.servers import KEY, Key, Server
from certs import Authority, issue, make_ca, pem, write_key
from hwsigner._identity import IdentitySource, open_identity
from hwsigner.auth import SigV4Auth, SigV4X509Auth
from hwsigner.emulator import Emulator, World
from hwsigner.errors import UsageError

REGION = "us-east-1"
LONG_LIVED = Key("AKIDEXAMPLE00000", "an/other/secret", "")


@pytest.fixture(scope="module")
def emulator(ca: Authority) -> Iterator[Emulator]:
    with Emulator(World.simple(ca.pem)) as running:
        for key in (KEY, LONG_LIVED):
            running.add_credentials(key.access_key_id, key.secret_access_key, key.session_token or None)
        yield running


@pytest.mark.parametrize("key", [KEY, LONG_LIVED])
@pytest.mark.parametrize("service", ["s3", "execute-api"])
def test_signed_request_is_accepted_and_wrong_credentials_are_refused(
    emulator: Emulator, key: Key, service: str
) -> None:
    def status(auth: SigV4Auth, **options: Any) -> int:
        url = emulator.url + "/b/a (é)!*'+~/.x//y"
        params = {"q": "é +&", "empty": "", "a": ["2", "1"]}
        return requests.put(url, params=params, auth=auth, timeout=60, **options).status_code

    auth = SigV4Auth(key, REGION, service)
    assert status(auth, data=b"abc") == 200
    assert status(auth, json={"a": 1}, headers={"x-amz-meta": "a  b "}) == 200
    assert status(auth) == 200
    assert status(SigV4Auth(replace(key, secret_access_key="wrong"), REGION, service)) == 403
    assert status(SigV4Auth(replace(key, session_token="wrong"), REGION, service)) in (400, 403)

    class Tampers(SigV4Auth):
        def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
            super().__call__(r).body = b"abd"
            return r

    assert status(Tampers(key, REGION, service), data=b"abc") in (400, 403)


@pytest.mark.parametrize("service", ["s3", "execute-api"])
def test_presigned_url_is_accepted_unless_changed_or_expired(emulator: Emulator, service: str) -> None:
    auth = SigV4Auth(KEY, REGION, service)
    url = auth.presign("put", emulator.url + "/b/a (é)+?q=a b", expires=60, headers={"x-amz-acl": "private"})
    assert requests.put(url, headers={"x-amz-acl": "private"}, timeout=60).status_code == 200
    assert requests.put(url, headers={"x-amz-acl": "public-read"}, timeout=60).status_code == 403
    assert requests.get(url, headers={"x-amz-acl": "private"}, timeout=60).status_code == 403
    past = SigV4Auth(KEY, REGION, service, clock=lambda: 1e9)
    assert requests.get(past.presign("GET", emulator.url + "/b"), timeout=60).status_code == 403


@pytest.mark.parametrize(
    "url", ["https://bucket.s3.us-east-1.amazonaws.com/a%20b", "https://h.example:8443/?a=b&c=%2B"]
)
def test_presigned_url_equals_botocores(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    auth = SigV4Auth(KEY, REGION, "s3", clock=lambda: 1e9)
    theirs = botocore.auth.S3SigV4QueryAuth(Credentials(*vars(KEY).values()), "s3", REGION, expires=3600)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime(2001, 9, 9, 1, 46, 40))
    request = AWSRequest("GET", url)
    theirs.add_auth(request)
    assert sorted(urlsplit(auth.presign("GET", url)).query.split("&")) == sorted(urlsplit(request.url).query.split("&"))


@pytest.mark.parametrize("expires", [0, 604801, True, 60.5, "60", None, float("nan")])
def test_presigning_refuses_what_can_not_be_signed(expires: Any) -> None:
    auth = SigV4Auth(KEY, REGION, "s3")
    with pytest.raises(UsageError, match="604800") as raised:
        auth.presign("GET", "https://b.example/", expires=expires)
    assert KEY.secret_access_key not in repr(raised.value)
    with pytest.raises(UsageError, match="can't be signed"):
        auth.presign("GET", "https://b.example/?a=%FF")
    with pytest.raises(UsageError, match="can't be signed"):
        auth.presign("GET", "https://b.example/", headers={"X-Amz-A": "é"})


@pytest.mark.parametrize(
    "url", ["/k", "h/k", "", "https://", "https://user:hunter2@*/", "https://[::1/k", "h:hunter2@h/"]
)
def test_presigning_refuses_an_invalid_url_without_repeating_its_password(url: str) -> None:
    with pytest.raises(UsageError, match="URL") as raised:
        SigV4Auth(KEY, REGION, "s3").presign("GET", url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("value", [None, 1])
def test_header_values_that_are_not_text_are_refused(value: Any) -> None:
    auth = SigV4Auth(KEY, REGION, "s3")
    with pytest.raises(UsageError, match="can't be signed"):
        auth.presign("GET", "https://b.example/", headers={"X-Amz-A": value})
    prepared = requests.Request("GET", "https://b.example/").prepare()
    prepared.headers["X-Amz-A"] = value
    with pytest.raises(UsageError, match="can't be signed"):
        auth(prepared)


# Which headers are signed.


def signed_names(**options: Any) -> list[str]:
    headers = dict.fromkeys(
        [
            *("Content-MD5", "Content-Type", "X-Amz-A", "x-amz-b", "Range", "Date", "Accept", "Cookie"),
            *("User-Agent", "Connection", "Accept-Encoding", "X-Amzn-Trace-Id", "Expect"),
        ],
        "1",
    )
    auth = SigV4Auth(LONG_LIVED, REGION, "dynamodb", **options)
    prepared = requests.Request("POST", "https://h.example/", headers=headers, data=b"a", auth=auth).prepare()
    names = str(prepared.headers["Authorization"]).partition("SignedHeaders=")[2].partition(",")[0]
    return names.split(";")


def test_also_sign_adds_headers_to_those_always_signed() -> None:
    always = ["content-md5", "content-type", "host", "x-amz-a", "x-amz-b", "x-amz-date"]
    assert signed_names() == always
    assert signed_names(also_sign=["RANGE", "date", "absent"]) == sorted([*always, "range", "date"])
    assert signed_names(also_sign="range") == sorted([*always, "range"])
    everything = sorted([*always, "range", "date", "accept", "cookie", "content-length"])
    assert signed_names(also_sign="*") == signed_names(also_sign=["*", "range"]) == everything


def test_headers_that_change_in_transit_are_refused_in_also_sign() -> None:
    with pytest.raises(UsageError, match="user-agent is never signed"):
        SigV4Auth(KEY, REGION, "s3", also_sign=["User-Agent"])


def test_signed_header_is_refused_when_its_value_is_not_ascii(server: Server) -> None:
    auth = SigV4Auth(KEY, REGION, "s3")
    with pytest.raises(UsageError, match="x-amz-meta-a has characters outside ASCII"):
        requests.get(server.url, headers={"X-Amz-Meta-A": "é"}, auth=auth, timeout=60)
    requests.get(server.url, headers={"X-Other": "é", "X-Amz-Meta-A": b"ab"}, auth=auth, timeout=60)
    assert server.last.is_signed()
    prepared = requests.Request("GET", server.url, headers={"X-Amz-A": "é".encode()}, auth=auth).prepare()
    assert prepared.headers["Authorization"]
    with pytest.raises(UsageError, match="can't be signed"):
        requests.Request("GE T", server.url, auth=auth).prepare()


# Signing again.


def test_signed_request_can_be_signed_again(server: Server) -> None:
    prepared = requests.Request("PUT", server.url, data=b"abc", auth=SigV4Auth(KEY, REGION, "s3")).prepare()
    prepared.body = b"abcd"
    prepared.prepare_auth(SigV4Auth(LONG_LIVED, REGION, "s3", clock=lambda: 1e9))
    assert "X-Amz-Security-Token" not in prepared.headers
    requests.Session().send(prepared)
    assert server.last.header("X-Amz-Date") == "20010909T014640Z"
    assert server.last.is_signed(LONG_LIVED)
    headers = dict(prepared.headers)
    prepared.prepare_auth(SigV4Auth(KEY, REGION, "execute-api"))
    assert set(prepared.headers) == {*headers, "X-Amz-Security-Token"} - {"X-Amz-Content-SHA256"}
    requests.put(server.url, data=b"abcd", headers=headers, auth=SigV4Auth(KEY, REGION, "s3"), timeout=60)
    assert server.last.is_signed()


def test_prepared_request_of_a_subclass_is_refused() -> None:
    class Other(requests.PreparedRequest):
        pass

    other = Other()
    with pytest.raises(UsageError, match="class Other"):
        other.prepare("PUT", "https://h.example/", data=b"abc", auth=SigV4Auth(KEY, REGION, "execute-api"))
    assert not {"Authorization", "X-Amz-Security-Token"} & set(other.headers)


def test_signing_key_is_derived_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[str] = []

    def derive(secret: str, date: str, region: str, service: str) -> bytes:
        derived.append(f"{secret} {date}")
        return b"k" * 32

    monkeypatch.setattr("hwsigner.sigv4.access_key.signing_key", derive)
    seconds, keys = [86400.0], [KEY]
    auth = SigV4Auth(lambda: keys[-1], REGION, "s3", clock=lambda: seconds[-1])
    for now, key, expected in [
        (86400.9, KEY, 1),
        (86401, KEY, 1),
        (172799.9, KEY, 1),
        (172800, KEY, 2),
        (172800, LONG_LIVED, 3),
    ]:
        seconds.append(now)
        keys.append(key)
        auth(requests.Request("GET", "https://h.example/").prepare())
        assert len(derived) == expected
    assert derived[-1] == "an/other/secret 19700103"


def test_new_values_are_used_when_credentials_change_in_place() -> None:
    class Refreshed:
        access_key_id, secret_access_key, session_token = vars(KEY).values()

    key, seconds = Refreshed(), [1e9]
    auth = SigV4Auth(key, REGION, "s3", clock=lambda: seconds[-1])
    for name, value in [("session_token", "t2"), ("secret_access_key", "s2"), ("access_key_id", "ASID2")]:
        for later in (0, 3600):
            auth._context()
            setattr(key, name, f"{value}{later}")
            seconds.append(seconds[-1] + later)
            fresh = SigV4Auth(key, REGION, "s3", clock=lambda: seconds[-1])
            assert auth._context() == fresh._context()


@pytest.mark.slow
def test_threads_may_share_a_session_and_an_auth(server: Server) -> None:
    keys = [KEY, LONG_LIVED]
    seconds = count(10**9)
    auth = SigV4Auth(lambda: keys[next(seconds) % 2], REGION, "s3", clock=lambda: next(seconds) // 3)
    with requests.Session() as session, ThreadPoolExecutor(16) as pool:
        session.auth = auth
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=16))
        list(pool.map(lambda n: session.put(f"{server.url}/{n}", data=str(n), timeout=60), range(320)))
    assert len({received.target for received in server.received}) == 320
    assert all(received.is_signed(KEY) or received.is_signed(LONG_LIVED) for received in server.received)


# Invalid credentials, regions and services.


def whole_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those it came from, shown or not."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (Key("AKID", "hunter2\udc80", ""), "secret access key"),
        (Key("AKID", "hunter2\n", ""), "secret access key"),
        (Key("AKID", "s", "hunter2\udc80"), "session token"),
        (Key("AKID", "s", "hunter2é"), "session token"),
        (Key("AKID\r\nX-Other: 1", "hunter2", ""), "access key ID"),
        (Key("AKIDé", "hunter2", ""), "access key ID"),
    ],
)
def test_invalid_credentials_are_refused_without_showing_them(key: Key, message: str) -> None:
    auth = SigV4Auth(key, REGION, "s3")
    for sign in (
        lambda: auth(requests.Request("GET", "https://h.example/").prepare()),
        lambda: auth.presign("GET", "https://h.example/"),
    ):
        with pytest.raises(UsageError, match=message) as raised:
            sign()
        for error in whole_chain(raised.value):
            assert "hunter2" not in f"{error!r} {error} {vars(error)}"


def test_session_token_with_a_line_break_is_refused() -> None:
    auth = SigV4Auth(Key("AKID", "s", "hunter2\r\nX-Other: 1"), REGION, "s3")
    with pytest.raises(UsageError, match="one line") as raised:
        auth(requests.Request("GET", "https://h.example/").prepare())
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["", None, b"s3", 1, "a b", "a/b", "a,b", "a\n", "é", "\udc80", "\x7f"])
def test_invalid_region_and_service_names_are_refused(name: Any) -> None:
    identity: Any = None
    for make, what in (
        (lambda: SigV4Auth(KEY, name, "s3"), "region"),
        (lambda: SigV4Auth(KEY, REGION, name), "service"),
        (lambda: SigV4X509Auth(identity, name), "region"),
        (lambda: SigV4X509Auth(identity, REGION, service=name), "service"),
    ):
        with pytest.raises(UsageError, match=f"is not a {what}"):
            make()


@pytest.mark.parametrize("name", ["s3", "execute-api", "*", "a_b.c~1", "!+-.0"])
def test_valid_region_and_service_names_are_signed(name: str) -> None:
    assert f"/{name}/{name}/" in SigV4Auth(KEY, name, name)._context().credential


# What `requests` expects of an authentication.


def provider() -> Key:
    return KEY


def test_auths_are_equal_when_their_settings_are_and_repr_has_no_secret() -> None:
    made: list[Callable[[], SigV4Auth]] = [
        lambda: SigV4Auth(KEY, REGION, "s3"),
        lambda: SigV4Auth(LONG_LIVED, REGION, "s3"),
        lambda: SigV4Auth(KEY, "eu-west-1", "s3"),
        lambda: SigV4Auth(KEY, REGION, "sqs"),
        lambda: SigV4Auth(KEY, REGION, "s3", also_sign="*"),
        lambda: SigV4Auth(KEY, REGION, "s3", unsigned_payload=True),
        lambda: SigV4Auth(provider, REGION, "s3"),
    ]
    for n, make in enumerate(made):
        auth = make()
        auth(requests.Request("GET", "https://h.example/").prepare())
        assert [make() == other() for other in made] == [n == m for m in range(len(made))]
        assert auth == copy.deepcopy(auth) == pickle.loads(pickle.dumps(auth)) != object()
        assert repr(auth).startswith("SigV4Auth(region=")
        for secret in (KEY.secret_access_key, KEY.session_token, LONG_LIVED.secret_access_key):
            assert secret not in repr(auth)
            assert b"inner" not in pickle.dumps(auth)


def test_error_of_the_credentials_provider_is_passed_on() -> None:
    def fail() -> Key:
        raise UsageError("no credentials today")

    with pytest.raises(UsageError, match="no credentials today"):
        requests.get("https://h.example/", auth=SigV4Auth(fail, REGION, "s3"), timeout=60)

    def err() -> Key:
        raise ValueError("an error of its own")

    with pytest.raises(ValueError, match="of its own"):
        SigV4Auth(err, REGION, "s3").presign("GET", "https://h.example/")


# SigV4-X509.


@pytest.mark.parametrize("intermediate", [False, True])
def test_x509_auth_signs_create_session(emulator: Emulator, ca: Authority, tmp_path: Path, intermediate: bool) -> None:
    issuer = make_ca("Intermediate", ca) if intermediate else ca
    key = ec.generate_private_key(ec.SECP256R1())
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pem(issue(issuer, key.public_key()), *([issuer.certificate] if intermediate else [])))
    source = IdentitySource(str(chain), str(write_key(tmp_path / "key.pem", key)))
    arns = {
        "trustAnchorArn": emulator.trust_anchor_arn,
        "profileArn": emulator.profile_arn,
        "roleArn": emulator.role_arn,
    }

    def post(auth: SigV4X509Auth) -> requests.Response:
        return requests.post(
            emulator.url + "/sessions", params=arns, json={"durationSeconds": 900}, auth=auth, timeout=60
        )

    with open_identity(source) as identity:
        auth, other = SigV4X509Auth(identity, REGION), SigV4X509Auth(identity, "eu-west-1")
        assert post(auth).status_code == 201
        assert post(other).status_code == 403
        assert auth == SigV4X509Auth(identity, REGION) != other
    assert repr(auth) == "SigV4X509Auth(region='us-east-1', service='rolesanywhere')"
