"""The stages of SigV4 with a secret key. Judges: botocore, and the emulator's strict verifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import botocore.auth
import pytest
import requests
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.emulator import Emulator, World
from hwsigner.errors import UsageError
from hwsigner.sigv4 import Request
from hwsigner.sigv4.access_key import (
    CONTENT_HASH,
    EMPTY_PAYLOAD_HASH,
    SignedNames,
    presign_request,
    sign_request,
    signing_context,
    signing_key,
)


@dataclass(frozen=True)
class Key:
    access_key_id: str
    secret_access_key: str
    session_token: str = ""


EXAMPLE = Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
BUCKET = (("Host", "examplebucket.s3.amazonaws.com"),)

# botocore as the judge.

NOW = datetime(2026, 2, 28, 23, 59, 59, 999999, UTC)
TOKENS = st.sampled_from(["", "to/ken+=="])
SERVICES = st.sampled_from(["s3", "dynamodb", "execute-api"])
METHODS = st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"])
PATHS = st.lists(st.sampled_from(["/", "a", "%20", "%C3%A9", "~", "-"]), max_size=6).map(
    lambda pieces: "/" + "".join(pieces)
)
TEXT = st.text(st.sampled_from("aZ0-_.~ +=&%/?#é€"), max_size=5)
QUERIES = st.dictionaries(TEXT, TEXT, max_size=4).map(lambda query: tuple(query.items()))
HEADERS = st.dictionaries(
    st.sampled_from(["x-amz-a", "X-Amz-B", "Content-Type", "content-md5"]),
    st.text(st.sampled_from("ab,= "), min_size=1, max_size=8),
    max_size=3,
).map(lambda headers: tuple(headers.items()))


@pytest.fixture(autouse=True)
def botocore_has_our_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: NOW.replace(tzinfo=None))


def judged(request: Request, key: Key, service: str, expires: int = 0) -> AWSRequest:
    """Return the request as signed by botocore."""
    credentials = Credentials(key.access_key_id, key.secret_access_key, key.session_token or None)
    names = {
        (False, False): botocore.auth.SigV4Auth,
        (True, False): botocore.auth.S3SigV4Auth,
        (False, True): botocore.auth.SigV4QueryAuth,
        (True, True): botocore.auth.S3SigV4QueryAuth,
    }
    arguments = {"expires": expires} if expires else {}
    auth = names[service == "s3", bool(expires)](credentials, service, "eu-west-1", **arguments)
    url = f"https://{dict(request.headers)['Host']}{request.target}"
    theirs = AWSRequest(method=request.method, url=url, data=request.body, headers=dict(request.headers))
    theirs.context["payload_signing_enabled"] = True
    auth.add_auth(theirs)
    return theirs


def parts(target: str) -> tuple[str, list[tuple[str, str]]]:
    path, _, query = target.partition("?")
    return path, sorted(parse_qsl(query, keep_blank_values=True))


@given(METHODS, PATHS, QUERIES, HEADERS, SERVICES, TOKENS, st.binary(max_size=8))
def test_header_signature_equals_botocores(
    method: str,
    path: str,
    query: tuple[tuple[str, str], ...],
    headers: tuple[tuple[str, str], ...],
    service: str,
    token: str,
    body: bytes,
) -> None:
    key = replace(EXAMPLE, session_token=token)
    request = Request(method, path, query, (("Host", "b.amazonaws.com"), *headers), body)
    signed = sign_request(request, key, region="eu-west-1", service=service, now=NOW)
    theirs = judged(request, key, service)
    ours = {name.lower(): value for name, value in signed.request.headers}
    assert ours == {name.lower(): value for name, value in theirs.headers.items()}


@given(METHODS, PATHS, QUERIES, HEADERS, SERVICES, TOKENS, st.integers(1, 604800))
def test_presigned_url_equals_botocores(
    method: str,
    path: str,
    query: tuple[tuple[str, str], ...],
    headers: tuple[tuple[str, str], ...],
    service: str,
    token: str,
    expires: int,
) -> None:
    key = replace(EXAMPLE, session_token=token)
    request = Request(method, path, query, (("Host", "b.amazonaws.com"), *headers))
    signed = presign_request(request, key, region="eu-west-1", service=service, now=NOW, expires=expires)
    theirs = judged(request, key, service, expires).url.removeprefix("https://b.amazonaws.com")
    assert parts(signed.request.target) == parts(theirs)
    again = presign_request(signed.request, key, region="eu-west-1", service=service, now=NOW, expires=expires)
    assert again == signed


# Special cases.


def test_signing_again_replaces_the_headers_that_signing_adds() -> None:
    request = Request("PUT", "/k", headers=BUCKET, body=b"x")
    later = NOW + timedelta(seconds=1)
    first = sign_request(request, replace(EXAMPLE, session_token="t"), region="r", service="s3", now=NOW)
    again = sign_request(first.request, EXAMPLE, region="r", service="s3", now=later)
    directly = sign_request(request, EXAMPLE, region="r", service="s3", now=later)
    assert sorted(again.request.headers) == sorted(directly.request.headers)


def test_content_hash_header_is_signed_in_place_of_the_body_hash() -> None:
    given_ = Request("PUT", "/k", headers=(*BUCKET, (CONTENT_HASH.lower(), EMPTY_PAYLOAD_HASH)), body=b"x")
    signed = sign_request(given_, EXAMPLE, region="r", service="s3", now=NOW)
    other = sign_request(given_._replace(body=b"y"), EXAMPLE, region="r", service="s3", now=NOW)
    assert signed.string_to_sign == other.string_to_sign


@pytest.mark.parametrize("name", ["User-Agent", "connection", "Authorization", "Transfer-Encoding"])
def test_headers_that_change_in_transit_are_never_signed(name: str) -> None:
    request = Request("GET", "/", headers=(*BUCKET, (name, "1")))
    with pytest.raises(UsageError, match="never signed"):
        sign_request(request, EXAMPLE, region="r", service="s3", now=NOW, also_sign=[name])
    signed = sign_request(request, EXAMPLE, region="r", service="s3", now=NOW, also_sign="*")
    names = "SignedHeaders=host;x-amz-content-sha256;x-amz-date,"
    assert names in next(v for n, v in reversed(signed.request.headers) if n == "Authorization")


@pytest.mark.parametrize("headers", [(), (("Host", "a"), ("host", "a"))])
def test_request_is_refused_when_it_does_not_have_one_host_header(headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(ValueError, match="one Host"):
        sign_request(Request("GET", "/", headers=headers), EXAMPLE, region="r", service="s3", now=NOW)
    with pytest.raises(ValueError, match="one Host"):
        presign_request(Request("GET", "/", headers=headers), EXAMPLE, region="r", service="s3", now=NOW, expires=1)


@pytest.mark.parametrize("white_space", ["", " ", " \t"])
@pytest.mark.parametrize("service", ["s3", "execute-api"])
def test_white_space_around_a_content_hash_does_not_change_the_signature(service: str, white_space: str) -> None:
    def signed(*headers: tuple[str, str]) -> tuple[bytes, bytes]:
        request = Request("PUT", "/k", headers=(*BUCKET, *headers), body=b"x")
        presigned = presign_request(request, EXAMPLE, region="r", service=service, now=NOW, expires=1)
        return sign_request(request, EXAMPLE, region="r", service=service, now=NOW).string_to_sign, (
            presigned.string_to_sign
        )

    given_ = signed((CONTENT_HASH, "UNSIGNED-PAYLOAD"))
    assert signed((CONTENT_HASH, f"UNSIGNED-PAYLOAD{white_space}")) == given_
    assert signed((CONTENT_HASH, f"{white_space}UNSIGNED-PAYLOAD")) == given_
    # An empty header is ignored.
    assert signed((CONTENT_HASH, white_space)) == signed()


def test_known_signing_key_is_not_reused_for_another_access_key() -> None:
    stamp, other = "20260228T235959Z", Key("AKID2", "secret2")
    known = signing_context(EXAMPLE, stamp, region="r", service="s3")
    assert signing_context(other, stamp, region="r", service="s3", known=known) == signing_context(
        other, stamp, region="r", service="s3"
    )
    assert signing_context(EXAMPLE, stamp, region="r", service="s3", known=known) == known


def test_cache_of_header_names_stays_bounded() -> None:
    signs = SignedNames(["range"])
    assert all(signs[f"x-amz-meta-{n}"] and not signs[f"x-{n}"] for n in range(2000))
    assert len(signs) < 1000
    assert signs["host"]
    assert signs["range"]
    assert not signs["accept"]


@pytest.mark.parametrize("expires", [-1, 0, 604801, True, 60.5, "60", None])
def test_presigning_is_refused_when_the_url_would_not_expire_within_a_week(expires: Any) -> None:
    with pytest.raises(ValueError, match="604800"):
        presign_request(
            Request("GET", "/", headers=BUCKET), EXAMPLE, region="r", service="s3", now=NOW, expires=expires
        )


def test_repr_of_a_signing_context_has_no_secret() -> None:
    context = signing_context(replace(EXAMPLE, session_token="to-ken"), "20260228T235959Z", region="r", service="s3")
    for secret in (EXAMPLE.secret_access_key, "to-ken"):
        assert secret not in repr(context)


@pytest.mark.parametrize("secret", ["hunter2\udc80", "hunter2\n", "\0hunter2", "hunter2\x7f"])
def test_secret_key_is_refused_without_appearing_in_the_error_when_it_is_not_encodable(secret: str) -> None:
    with pytest.raises(ValueError, match="secret access key") as raised:
        signing_key(secret, "20260228", "r", "s3")
    assert type(raised.value) is ValueError
    assert raised.value.__context__ is None
    assert "hunter2" not in repr(raised.value)


def test_non_ascii_secret_key_signs_as_with_botocore() -> None:
    theirs = botocore.auth.SigV4Auth(Credentials("AKID", "sécret €"), "sqs", "r")
    request = AWSRequest("GET", "/")
    request.context["timestamp"] = "20260228T235959Z"
    signed = sign_request(
        Request("GET", "/", headers=BUCKET), Key("AKID", "sécret €"), region="r", service="sqs", now=NOW
    )
    signature = theirs.signature(signed.string_to_sign.decode("ascii"), request)
    assert signed.request.headers[-1][1].endswith(f"Signature={signature}")


@pytest.mark.parametrize("access_key_id", ["AKID\r\n", "AKIDé", "AKID\x7f"])
def test_access_key_id_is_refused_when_no_header_can_hold_it(access_key_id: str) -> None:
    key = replace(EXAMPLE, access_key_id=access_key_id)
    with pytest.raises(ValueError, match="access key ID"):
        signing_context(key, "20260228T235959Z", region="r", service="s3")


def test_session_token_none_means_no_session_token() -> None:
    none: Any = None
    stamp = "20260228T235959Z"
    assert signing_context(replace(EXAMPLE, session_token=none), stamp, region="r", service="s3") == signing_context(
        EXAMPLE, stamp, region="r", service="s3"
    )


# A strict verifier.


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(World()) as running:
        running.add_credentials("ASIDEXAMPLE00000", "secret", "to/ken==")
        yield running


@pytest.mark.parametrize("service", ["s3", "execute-api"])
def test_presigned_url_is_accepted_unless_it_is_changed(emulator: Emulator, service: str) -> None:
    key = Key("ASIDEXAMPLE00000", "secret", "to/ken==")
    host = urlsplit(emulator.url).netloc
    request = Request("GET", "/a%20b//c", (("q", "é +"),), (("Host", host), ("X-Amz-A", "b")))
    signed = presign_request(request, key, region="us-east-1", service=service, now=datetime.now(UTC), expires=60)
    url = emulator.url + signed.request.target
    assert requests.get(url, headers={"X-Amz-A": "b"}, timeout=60).status_code == 200
    assert requests.get(url, headers={"X-Amz-A": "c"}, timeout=60).status_code == 403
    assert requests.get(url.replace("q=", "r="), headers={"X-Amz-A": "b"}, timeout=60).status_code == 403
    assert requests.delete(url, headers={"X-Amz-A": "b"}, timeout=60).status_code == 403
