"""A token's form, and what it claims before anything has verified it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from hwsigner._serving.pods.refusals import VerifierRefusal
from hwsigner._serving.pods.token import (
    MAX_BYTES,
    PodIdentity,
    PodToken,
    account_of,
    check_audience,
    check_pod,
    read_token,
)
from hwsigner._serving.responses import HTTPRefusal
from serving.pods.api_server import RSA_ISSUER, bound, claims, encode

GOOD = RSA_ISSUER.token()
HEADER, CLAIMS, SIGNATURE = GOOD.split(".")


def refusal(token: str | bytes) -> HTTPRefusal:
    with pytest.raises(HTTPRefusal) as error:
        read_token(token if isinstance(token, bytes) else token.encode())
    return error.value


def read_or_none(token: str | bytes) -> PodToken | None:
    """Return what a token says, or None if it is refused in the one way that there is."""
    try:
        return read_token(token if isinstance(token, bytes) else token.encode())
    except VerifierRefusal:
        return None


def of_claims(**changes: Any) -> str:
    return f"{HEADER}.{encode(claims(**changes))}.{SIGNATURE}"


def test_token_says_who_it_is_of() -> None:
    said = claims()
    token = read_token(f"{HEADER}.{encode(said)}.{SIGNATURE}".encode())
    assert token.identity == PodIdentity(
        "team-a", "web", "web-1", "8f020469-114a-4cac-acf7-3503ccc632b6", "node1", said["exp"]
    )
    assert (token.key_id, token.algorithm, token.audiences) == ("rsa-key", "RS256", ("hwsigner",))


def test_token_with_the_longest_names_is_read() -> None:
    long = "a" * 253
    of = bound(
        namespace="n" * 63,
        node={"name": long, "uid": "u" * 36},
        pod={"name": long, "uid": "u" * 36},
        serviceaccount={"name": long, "uid": "u" * 36},
    )
    said = claims(**{"kubernetes.io": of, "sub": f"system:serviceaccount:{'n' * 63}:{long}"})
    token = f"{HEADER}.{encode(said)}.{'A' * 684}".encode()
    assert len(token) < MAX_BYTES / 2
    assert read_token(token).identity.service_account == long


@pytest.mark.parametrize(
    "token",
    [
        *(
            "",
            " ",
            "\t",
            f" {GOOD}",
            f"{GOOD} ",
            f"{GOOD}\n",
            f"{GOOD} more",
            f"Bearer {GOOD}",
            f"{GOOD}\0",
            f"{GOOD}ä",
        ),
        *(GOOD[:200], f"{HEADER}.{CLAIMS}", f"{HEADER}.{CLAIMS}.", f"..{SIGNATURE}", f"{GOOD}.{SIGNATURE}", "a.b.c"),
        *(f"{HEADER}=.{CLAIMS}.{SIGNATURE}", f"{HEADER}.{CLAIMS}.+/{SIGNATURE[2:]}", "A" * 1_000_000),
        f"{HEADER}.{CLAIMS}.{'A' * MAX_BYTES}",
    ],
)
def test_text_of_another_form_is_refused(token: str) -> None:
    assert refusal(token).status == 401


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"[]", None),
        (b'"text"', None),
        (b'{"alg":"RS256","alg":"none"}', None),
        (b'{"alg":"RS256","crit":["b64"],"b64":false}', None),
        (b'{"alg":1}', None),
        (b'{"alg":"RS256","kid":7}', None),
        (b"{}", None),
        (b"[" * 3000, None),
        (json.dumps({"alg": "RS256"}).encode("utf-16"), None),
        (None, b"null"),
        (None, b"[" * 5000),
        (None, b'{"a":' * 900 + b"1" + b"}" * 900),
        (None, b"{" + b'"exp":1,"exp":2' + b"}"),
        (None, b"\xff\xfe"),
        (None, b'{"exp":' + b"9" * 5000 + b"}"),
    ],
)
def test_json_that_no_cluster_writes_is_refused(header: bytes | None, body: bytes | None) -> None:
    token = f"{encode(header) if header else HEADER}.{encode(body) if body else CLAIMS}.{SIGNATURE}"
    assert refusal(token).status == 401


@pytest.mark.parametrize(
    "changes",
    [
        *({"aud": None}, {"aud": "hwsigner"}, {"aud": ["hwsigner", 1]}, {"aud": {"hwsigner": 1}}),
        *({"exp": None}, {"exp": "9999999999"}, {"exp": 1e12}, {"exp": True}, {"exp": 2**53}, {"exp": -1}),
        *({"exp": float("inf")}, {"exp": float("nan")}, {"nbf": None}, {"nbf": []}, {"iss": None}, {"iss": ["x"]}),
        *({"sub": None}, {"sub": "system:serviceaccount:team-a:batch"}, {"sub": "system:anonymous"}),
        *({"kubernetes.io": None}, {"kubernetes.io": []}, {"kubernetes.io": "team-a"}, {"kubernetes.io": {}}),
        *({"kubernetes.io": bound(pod="web-1")}, {"kubernetes.io": bound(node=["node1"])}),
        *({"kubernetes.io": bound(pod={"name": 1})}, {"kubernetes.io": bound(serviceaccount=None)}),
        {"kubernetes.io": bound(namespace="team:a"), "sub": "system:serviceaccount:team:a:web"},
        {"kubernetes.io": bound(namespace="Team"), "sub": "system:serviceaccount:Team:web"},
        {"kubernetes.io": bound(namespace="../a"), "sub": "system:serviceaccount:../a:web"},
    ],
)
def test_claims_that_no_cluster_makes_are_refused(changes: dict[str, Any]) -> None:
    assert refusal(of_claims(**changes)).status == 401


def test_another_text_of_the_same_signature_is_refused() -> None:
    # 256 bytes leave four bits of the last character unused, which a lenient reader ignores.
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(SIGNATURE[-1])
    other = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last ^ 1]
    twin = GOOD[:-1] + other
    padding = "=" * (-len(SIGNATURE) % 4)
    assert base64.urlsafe_b64decode(twin.split(".")[2] + padding) == base64.urlsafe_b64decode(SIGNATURE + padding)
    assert refusal(twin).status == 401


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (bound(pod=None), "not bound to a Pod"),
        (bound(pod={"name": "web-1"}), "not bound to a Pod"),
        (bound(node=None), "does not name the Pod's node"),
        (bound(node={"name": "node2"}), "on node node2, and this is node node1"),
        (bound(node={"name": "node1 "}), "on node node1 , and this is node node1"),
    ],
)
def test_token_of_no_pod_here_is_refused_with_403(of: dict[str, Any], text: str) -> None:
    token = read_token(of_claims(**{"kubernetes.io": of}).encode())
    with pytest.raises(HTTPRefusal, match=text) as error:
        check_pod(token.identity, "node1")
    assert error.value.status == 403


def test_token_for_another_audience_is_refused_with_both_names() -> None:
    token = read_token(of_claims(aud=["sts.example", "Hwsigner"]).encode())
    with pytest.raises(HTTPRefusal, match=r"audience sts\.example, Hwsigner, not hwsigner") as error:
        check_audience(token, ("hwsigner",))
    assert error.value.status == 401


NAMES = ("a:b:c", "a:b\n", ":b", "a:", "A:b", "a.b:c", "a:b/c")
OTHERS: tuple[object, ...] = (
    "system:anonymous",
    "admin",
    "",
    "system:serviceaccount:a",
    "system:node:node1",
    None,
    7,
    [],
)


@pytest.mark.parametrize(
    ("username", "account"),
    [
        ("system:serviceaccount:team-a:web", ("team-a", "web")),
        ("system:serviceaccount:a:my.dotted.name", ("a", "my.dotted.name")),
        *((f"system:serviceaccount:{name}", None) for name in (*NAMES, f"{'a' * 64}:b")),
        *((name, None) for name in (*OTHERS, "xsystem:serviceaccount:a:b")),
    ],
)
def test_only_service_accounts_are_accounts(username: object, account: tuple[str, str] | None) -> None:
    assert account_of(username) == account


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=scaled(40))
@given(st.dictionaries(st.sampled_from([*claims(), "alg"]), JSON, min_size=1), st.booleans())
def test_any_change_of_the_claims_is_refused_or_has_all_that_a_pod_has(changes: dict[str, Any], in_bound: bool) -> None:
    said = claims(**{"kubernetes.io": {**bound(), **changes}}) if in_bound else {**claims(), **changes}
    data = json.dumps(said).encode("utf-8", "surrogatepass")
    token = read_or_none(f"{HEADER}.{encode(data)}.{SIGNATURE}")
    if token is None:
        return
    of = said["kubernetes.io"]
    assert said["sub"] == f"system:serviceaccount:{of['namespace']}:{of['serviceaccount']['name']}"
    assert (token.identity.namespace, token.identity.service_account) == (of["namespace"], of["serviceaccount"]["name"])
    assert type(token.identity.expiration) is int


@settings(max_examples=scaled(100))
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_refused(token: bytes) -> None:
    assert refusal(token).status == 401


@settings(max_examples=scaled(100))
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_keeps_the_form(place: int, byte: int) -> None:
    changed = GOOD.encode()[:place] + bytes([byte]) + GOOD.encode()[place + 1 :]
    token = read_or_none(changed)
    assert token is None or token.text == changed.decode()


def test_nested_json_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda *arguments, **more: pytest.fail("it was parsed"))
    assert refusal(f"{encode(b'[' * 5000)}.{CLAIMS}.{SIGNATURE}").status == 401
