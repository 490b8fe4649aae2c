"""The stages of SigV4-X509. Judges: botocore for the strings, the `openssl` command for the signatures."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from random import Random

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from hwsigner.key import ECDSA, MLDSA, RSA, Algorithm
from hwsigner.sigv4 import (
    Request,
    SignedRequest,
    add_x509_headers,
    authorization_header,
    canonical_request,
    credential_scope,
    sign_request,
    signed_headers,
    string_to_sign,
    timestamp,
)
from judges import needs_openssl_3_5

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)

REGION = "eu-west-1"
HOST = "rolesanywhere.eu-west-1.amazonaws.com"
BEFORE_MIDNIGHT = datetime(2026, 2, 28, 23, 59, 59, 999999, UTC)
SIGNATURE = b"\x00\x0f\xf0\xab"


@dataclass(frozen=True)
class Certificate:
    algorithm: Algorithm
    serial: str = "713"
    x509_header: str = "TGVhZg=="
    chain_header: str = "SXNzdWVy,Q0E="


CREATE_SESSION = Request(
    "POST",
    "/sessions",
    query=(
        ("roleArn", "arn:aws:iam::111122223333:role/web"),
        ("profileArn", "arn:aws:rolesanywhere:eu-west-1:111122223333:profile/p"),
    ),
    headers=(("User-Agent", "x"), ("Host", HOST), ("Content-Type", "application/json")),
    body=b'{"durationSeconds":3600}',
)


def sign(
    request: Request = CREATE_SESSION, certificate: Certificate = Certificate(ECDSA), **changes: object
) -> SignedRequest:
    arguments = {"certificate": certificate, "region": REGION, "now": BEFORE_MIDNIGHT, **changes}
    return sign_request(request, lambda message: SIGNATURE, **arguments)  # type: ignore[arg-type]


# The vector: every intermediate string.

CANONICAL_REQUEST = b"""\
POST
/sessions
profileArn=arn%3Aaws%3Arolesanywhere%3Aeu-west-1%3A111122223333%3Aprofile%2Fp\
&roleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fweb
content-type:application/json
host:rolesanywhere.eu-west-1.amazonaws.com
x-amz-date:20260228T235959Z
x-amz-x509:TGVhZg==
x-amz-x509-chain:SXNzdWVy,Q0E=

content-type;host;x-amz-date;x-amz-x509;x-amz-x509-chain
1a15f67f6619aa540b13e9a4c37d149fb2c9bdea25d82b73a3878826694dfe27"""
# Its last line, and the next one, are from `openssl dgst -sha256`.
REQUEST_DIGEST = "a76325f63f64698729d006d6e35a6756d1c91377adffa646a15bbf22bee440a7"


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [(RSA, "AWS4-X509-RSA-SHA256"), (ECDSA, "AWS4-X509-ECDSA-SHA256"), (MLDSA, "AWS4-X509-MLDSA")],
)
def test_each_stage_is_right_for_a_fixed_request(algorithm: Algorithm, name: str) -> None:
    messages: list[bytes] = []

    def sign_message(message: bytes) -> bytes:
        messages.append(message)
        return SIGNATURE

    signed = sign_request(
        CREATE_SESSION, sign_message, certificate=Certificate(algorithm), region=REGION, now=BEFORE_MIDNIGHT
    )
    to_sign = f"{name}\n20260228T235959Z\n20260228/eu-west-1/rolesanywhere/aws4_request\n{REQUEST_DIGEST}".encode()
    assert canonical_request(signed.request) == CANONICAL_REQUEST
    assert signed.string_to_sign == to_sign
    assert messages == [to_sign]
    assert signed.request == CREATE_SESSION._replace(
        headers=(
            *CREATE_SESSION.headers,
            ("X-Amz-Date", "20260228T235959Z"),
            ("X-Amz-X509", "TGVhZg=="),
            ("X-Amz-X509-Chain", "SXNzdWVy,Q0E="),
            (
                "Authorization",
                f"{name} Credential=713/20260228/eu-west-1/rolesanywhere/aws4_request, "
                "SignedHeaders=content-type;host;x-amz-date;x-amz-x509;x-amz-x509-chain, Signature=000ff0ab",
            ),
        ),
    )


def test_date_and_scope_change_at_midnight_utc() -> None:
    signed = sign(now=BEFORE_MIDNIGHT + timedelta(seconds=1))
    assert signed.string_to_sign.split(b"\n")[1:3] == [
        b"20260301T000000Z",
        b"20260301/eu-west-1/rolesanywhere/aws4_request",
    ]
    assert b"x-amz-date:20260301T000000Z\n" in canonical_request(signed.request)
    assert " Credential=713/20260301/eu-west-1/" in dict(signed.request.headers)["Authorization"]


def test_chain_header_is_absent_when_there_is_no_chain() -> None:
    signed = sign(certificate=Certificate(ECDSA, chain_header=""))
    assert "X-Amz-X509-Chain" not in dict(signed.request.headers)
    assert signed_headers(signed.request) == "content-type;host;x-amz-date;x-amz-x509"


# The stages alone.


def test_times_are_converted_to_utc() -> None:
    cairo = datetime(2026, 3, 1, 1, 59, 59, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(cairo) == timestamp(BEFORE_MIDNIGHT) == "20260228T235959Z"
    assert credential_scope(cairo, REGION) == "20260228/eu-west-1/rolesanywhere/aws4_request"


def test_time_without_a_zone_is_refused() -> None:
    naive = datetime(2026, 2, 28)
    for call in (
        lambda: timestamp(naive),
        lambda: credential_scope(naive, REGION),
        lambda: string_to_sign(RSA, naive, scope="", canonical_request=b""),
        lambda: sign(now=naive),
    ):
        with pytest.raises(ValueError, match="zone"):
            call()


def test_string_to_sign_ends_with_the_hash_of_the_canonical_request() -> None:
    to_sign = string_to_sign(MLDSA, BEFORE_MIDNIGHT, scope="a/b", canonical_request=b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert to_sign == f"AWS4-X509-MLDSA\n20260228T235959Z\na/b\n{digest}".encode()


def test_authorization_header_has_the_documented_form() -> None:
    header = authorization_header(
        Certificate(RSA, serial="1"), "the/scope", signed_headers="a;b", signature=b"\xca\xfe"
    )
    assert header == "AWS4-X509-RSA-SHA256 Credential=1/the/scope, SignedHeaders=a;b, Signature=cafe"


def test_host_content_type_and_amz_headers_are_signed() -> None:
    names = [
        "HOST",
        "content-TYPE",
        "X-Amz-Date",
        "x-amz-anything",
        "X-Amz-Date",
        "X-Amzn-Trace-Id",
        "Accept",
        "User-Agent",
        "Date",
    ]
    request = Request("GET", "/", headers=tuple((name, "1") for name in names))
    assert signed_headers(request) == "content-type;host;x-amz-anything;x-amz-date"
    lines = canonical_request(request).split(b"\n")[3:-2]
    assert lines == [b"content-type:1", b"host:1", b"x-amz-anything:1", b"x-amz-date:1,1", b""]


def test_signing_again_replaces_the_headers_that_signing_adds() -> None:
    first = sign(certificate=Certificate(RSA, x509_header="b2xk"))
    again = sign(first.request, Certificate(ECDSA, chain_header=""), now=BEFORE_MIDNIGHT + timedelta(seconds=1))
    assert again == sign(certificate=Certificate(ECDSA, chain_header=""), now=BEFORE_MIDNIGHT + timedelta(seconds=1))
    in_lower_case = first.request._replace(
        headers=tuple((name.lower(), value) for name, value in first.request.headers)
    )
    assert [name for name, _ in sign(in_lower_case).request.headers] == [
        *("user-agent", "host", "content-type"),
        *("X-Amz-Date", "X-Amz-X509", "X-Amz-X509-Chain", "Authorization"),
    ]


def test_other_amz_headers_are_kept_and_signed() -> None:
    request = CREATE_SESSION._replace(headers=(*CREATE_SESSION.headers, ("X-Amz-Target", " a  b ")))
    assert b"\nx-amz-target:a b\n" in canonical_request(sign(request).request)
    assert ("X-Amz-Target", " a  b ") in sign(request).request.headers


@pytest.mark.parametrize("headers", [(), (("X-Host", "a"),), (("Host", "a"), ("host", "a"))])
def test_request_is_refused_when_it_does_not_have_one_host_header(headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(ValueError, match="one Host"):
        add_x509_headers(Request("GET", "/", headers=headers), Certificate(RSA), BEFORE_MIDNIGHT)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GÉT"},
        {"method": "GE T"},
        {"path": "/é"},
        {"path": "sessions"},
        {"path": "/sessions?a=b"},
        {"query": (("a", "\ud800"),)},
        {"headers": (("Host", "a\r\nX-Amz-Date: b"),)},
        {"headers": (("Host", "é"),)},
        {"headers": (("Host", "a"), ("X-Amz-\n", "b"))},
    ],
)
def test_request_is_refused_when_it_can_not_be_sent(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        sign(CREATE_SESSION._replace(**change))  # type: ignore[arg-type]


def test_region_with_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match="one line"):
        sign(region="eu\nwest")


def test_target_is_the_encoded_path_and_canonical_query() -> None:
    assert CREATE_SESSION.target == "/sessions?" + CANONICAL_REQUEST.split(b"\n")[2].decode()
    assert Request("GET", "").target == "/"
    assert Request("GET", "/a%20b/").target == "/a%20b/"
    assert Request("GET", "", query=(("b", "é +"), ("a", ""))).target == "/?a=&b=%C3%A9%20%2B"


# The signature is that of what is sent: botocore reads the request as sent.

WIRE_PATHS = st.lists(st.sampled_from(["/", "//", ".", "..", "a", "%2F", "%C3%A9", "+", "=", "~"]), max_size=6).map(
    lambda pieces: "/" + "".join(pieces)
)
TEXT = st.text(st.sampled_from("aZ0-_.~ +=&%/?#é€"), max_size=5)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["X-Amz-A", "x-amz-a", "x-amz-b", "Content-Type", "Accept", "User-Agent"]),
        st.text(st.sampled_from("ab,= \t"), max_size=8),
    ),
    max_size=5,
)


def judge(request: Request) -> list[str]:
    """Return the canonical request and string to sign that botocore computes for a sent request."""
    sent = AWSRequest(method=request.method, url=f"https://{HOST}{request.target}", data=request.body)
    for name, value in request.headers:
        if re.fullmatch("host|content-type|x-amz-.*", name.lower()):
            sent.headers.add_header(name, value)
    sent.context["timestamp"] = sent.headers["X-Amz-Date"]
    auth = SigV4Auth(Credentials("id", "secret"), "rolesanywhere", REGION)
    canonical = auth.canonical_request(sent)
    return [canonical, auth.string_to_sign(sent, canonical)]


@settings(max_examples=scaled(500))
@given(
    WIRE_PATHS,
    st.lists(st.tuples(TEXT, TEXT), max_size=5),
    HEADERS,
    st.binary(max_size=8),
    st.datetimes(min_value=datetime(2000, 1, 1)),
)
def test_signature_covers_exactly_what_is_sent(
    path: str, query: Sequence[tuple[str, str]], headers: Sequence[tuple[str, str]], body: bytes, now: datetime
) -> None:
    request = Request("POST", path, query=tuple(query), headers=(*headers, ("Host", HOST)), body=body)
    signed = sign(request, now=now.replace(tzinfo=UTC))
    canonical, to_sign = judge(signed.request)
    assert canonical_request(signed.request).decode() == canonical
    assert signed.string_to_sign.decode() == to_sign.replace("AWS4-HMAC-SHA256", ECDSA)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=5), st.randoms())
def test_signature_does_not_depend_on_the_order_of_query_and_headers(
    query: list[tuple[str, str]], random: Random
) -> None:
    shuffled, headers = list(query), list(CREATE_SESSION.headers)
    random.shuffle(shuffled)
    random.shuffle(headers)
    one = sign(CREATE_SESSION._replace(query=tuple(query)))
    other = sign(CREATE_SESSION._replace(query=tuple(shuffled), headers=tuple(headers)))
    assert canonical_request(one.request) == canonical_request(other.request)
    assert one.request.target == other.request.target


@pytest.mark.parametrize(
    "change", [{"method": "PUT"}, {"path": "/session"}, {"query": ()}, {"body": b""}, {"headers": (("Host", "h"),)}]
)
def test_every_part_of_a_request_is_signed(change: dict[str, object]) -> None:
    assert sign(CREATE_SESSION._replace(**change)).string_to_sign != sign().string_to_sign  # type: ignore[arg-type]


# Signatures, verified by the openssl command.

KEYS: dict[str, Callable[[], PrivateKey]] = {
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate,
}


def sign_with(key: PrivateKey, message: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(hashes.SHA256()))
    return key.sign(message)


def openssl_verifies(folder: Path, public_key: bytes, message: bytes, signature: bytes, *digest: str) -> bool:
    (folder / "public.pem").write_bytes(public_key)
    (folder / "message").write_bytes(message)
    (folder / "signature").write_bytes(signature)
    command = ("openssl", "pkeyutl", "-verify", "-rawin", *digest, "-pubin", "-inkey", "public.pem")
    done = subprocess.run(
        (*command, "-in", "message", "-sigfile", "signature"),
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    return done.returncode == 0 and b"Signature Verified Successfully" in done.stdout


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[needs_openssl_3_5] if kind.startswith("ML-DSA") else []) for kind in KEYS]
)
def test_openssl_verifies_the_signature_over_what_is_sent(kind: str, tmp_path: Path) -> None:
    key = KEYS[kind]()
    algorithm = RSA if kind.startswith("RSA") else ECDSA if kind.startswith("P-") else MLDSA
    signed = sign_request(
        CREATE_SESSION,
        lambda message: sign_with(key, message),
        certificate=Certificate(algorithm),
        region=REGION,
        now=BEFORE_MIDNIGHT,
    )
    authorization = dict(signed.request.headers)["Authorization"]
    signature = re.fullmatch(f"{algorithm} Credential=.*, Signature=([0-9a-f]+)", authorization)
    assert signature is not None
    message = judge(signed.request)[1].replace("AWS4-HMAC-SHA256", algorithm).encode()
    public_key = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    digest = () if algorithm == MLDSA else ("-digest", "sha256")
    assert openssl_verifies(tmp_path, public_key, message, bytes.fromhex(signature[1]), *digest)
    assert not openssl_verifies(tmp_path, public_key, message + b" ", bytes.fromhex(signature[1]), *digest)


def test_documented_example_is_right_and_openssl_verifies_it(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-it-works" / "sigv4-x509.md").read_text("utf-8")
    sent, canonical, to_sign, authorization, public_key = re.findall(
        r"^```text\n(.*?)\n```$", page, re.DOTALL | re.MULTILINE
    )
    signed = sign()
    headers = dict(signed.request.headers)
    del headers["User-Agent"]
    expected, _, _ = headers.pop("Authorization").rpartition("=")
    lines = [
        f"POST {signed.request.target} HTTP/1.1",
        *map(": ".join, headers.items()),
        "",
        signed.request.body.decode(),
    ]
    assert sent.splitlines() == lines
    assert canonical == canonical_request(signed.request).decode()
    assert to_sign == signed.string_to_sign.decode()
    start, _, signature = authorization.rpartition("=")
    assert start == f"Authorization: {expected}"
    assert openssl_verifies(
        tmp_path, public_key.encode(), to_sign.encode(), bytes.fromhex(signature), "-digest", "sha256"
    )
