"""Tokens verified by the cluster's keys: PyJWT judges, and a judge of the tests' own that uses `cryptography` alone."""

from __future__ import annotations

import hmac
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from hwsigner._serving.pods.cluster import Cluster
from hwsigner._serving.pods.keys import (
    MAX_AGE_SECONDS,
    PAUSE_SECONDS,
    REFRESH_SECONDS,
    ClusterKey,
    FetchedKeys,
    KeysFile,
    KeyVerifier,
    read_keys,
)
from hwsigner._serving.pods.refusals import VerifierRefusal
from hwsigner._serving.pods.token import PodIdentity, read_token
from hwsigner.errors import ConfigError, HwsignerError
from serving.pods.api_server import (
    EC_ISSUER,
    ISSUER,
    OTHER_ISSUER,
    RSA_ISSUER,
    ApiServer,
    ClusterIssuer,
    bound,
    claims,
    decode,
    encode,
)
from serving.pods.verifying import KEYS, Pods, Ticking

HEADER = {"alg": "RS256", "kid": "rsa-key"}
KINDS = {
    **{name: ClusterIssuer(RSA_ISSUER.key, name, name) for name in ("RS256", "RS384", "RS512")},
    "ES256": EC_ISSUER,
    "ES384": ClusterIssuer(ec.generate_private_key(ec.SECP384R1()), "k", "ES384"),
    "ES512": ClusterIssuer(ec.generate_private_key(ec.SECP521R1()), "k", "ES512"),
}


class FixedKeys:
    """Keys that are known."""

    def __init__(self, *listed: dict[str, Any]) -> None:
        self._keys = read_keys(json.dumps({"keys": listed}).encode())

    def find(self, key_id: str) -> list[ClusterKey]:
        return [key for name, key in self._keys.items() if key_id in ("", name)]


def verifier(*listed: dict[str, Any]) -> KeyVerifier:
    keys = FixedKeys(*(listed or (RSA_ISSUER.jwk(), EC_ISSUER.jwk())))
    return KeyVerifier(keys, audiences=("hwsigner",), issuer=ISSUER, node="node1")


def status(token: str, *listed: dict[str, Any]) -> int:
    try:
        verifier(*listed)(read_token(token.encode()))
    except VerifierRefusal as refusal:
        return int(refusal.status)
    return 200


@pytest.mark.parametrize("name", KINDS)
def test_token_of_each_algorithm_is_accepted(name: str) -> None:
    said = claims()
    assert verifier(KINDS[name].jwk())(read_token(KINDS[name].sign(said).encode())) == PodIdentity(
        "team-a", "web", "web-1", "8f020469-114a-4cac-acf7-3503ccc632b6", "node1", said["exp"]
    )


@pytest.mark.parametrize("name", KINDS)
def test_key_without_an_algorithm_takes_those_that_fit_it(name: str) -> None:
    jwk = {key: value for key, value in KINDS[name].jwk().items() if key not in ("alg", "use")}
    assert status(KINDS[name].token(), jwk) == 200


@pytest.mark.parametrize("other", ["RS384", "RS512"])
def test_key_with_an_algorithm_takes_no_other(other: str) -> None:
    token = ClusterIssuer(RSA_ISSUER.key, "rsa-key", other).token()
    assert status(token, RSA_ISSUER.jwk()) == 401


def public_bytes(form: str) -> bytes:
    key = RSA_ISSUER.key.public_key()
    if form == "n":
        return RSA_ISSUER.jwk()["n"].encode()
    kind = Encoding.PEM if form.startswith("PEM") else Encoding.DER
    return bytes(key.public_bytes(kind, PublicFormat.PKCS1 if "1" in form else PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize("form", ["PEM", "PEM-1", "DER", "n"])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_hmac_with_the_public_key_as_secret_is_refused(form: str, algorithm: str) -> None:
    text = f"{encode({'alg': algorithm, 'kid': 'rsa-key'})}.{encode(claims())}"
    mac = hmac.new(public_bytes(form), text.encode(), f"sha{algorithm[2:]}").digest()
    assert status(f"{text}.{encode(mac)}") == 401


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "RS256 ", "rs256", "PS256", "EdDSA", "ES256", "dir"])
@pytest.mark.parametrize("key_id", ["rsa-key", "", "ec-key"])
def test_token_that_says_another_algorithm_is_refused(algorithm: str, key_id: str) -> None:
    header = {"alg": algorithm, "kid": key_id}
    assert status(RSA_ISSUER.sign(claims(), header)) == 401
    assert status(f"{encode(header)}.{encode(claims())}.AA") == 401


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "RS256", "kid": "ec-key"},
        {"alg": "ES256", "kid": "rsa-key"},
        {"alg": "RS256", "kid": "unknown"},
        {"alg": "RS256", "kid": "rsa-key", "crit": ["b64"], "b64": False},
        {"alg": "RS256", "kid": "../rsa-key"},
    ],
)
def test_header_of_another_key_is_refused(header: dict[str, Any]) -> None:
    assert status(RSA_ISSUER.sign(claims(), header)) == 401


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_key_that_the_token_brings_is_not_used(name: str) -> None:
    value: Any = OTHER_ISSUER.jwk() if name == "jwk" else "https://evil.example/jwks"
    for key_id in ("rsa-key", "other-key", ""):
        assert status(OTHER_ISSUER.sign(claims(), {"alg": "RS256", "kid": key_id, name: value})) == 401


def test_token_without_a_key_s_id_may_be_of_any_key() -> None:
    assert status(EC_ISSUER.sign(claims(), {"alg": "ES256"})) == 200
    assert status(OTHER_ISSUER.sign(claims(), {"alg": "RS256"})) == 401


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exp": -1}, 401),
        ({"exp": 5}, 200),
        ({"nbf": 50, "iat": 50}, 200),
        ({"nbf": 70, "iat": 70}, 401),
    ],
)
def test_token_is_good_from_60_s_before_its_time_to_its_end(changes: dict[str, int], expected: int) -> None:
    now = claims()["iat"]
    assert status(RSA_ISSUER.token(**{name: now + seconds for name, seconds in changes.items()})) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"aud": ["other"]}, 401),
        ({"aud": []}, 401),
        ({"aud": ["other", "hwsigner"]}, 200),
        ({"iss": f"{ISSUER}/"}, 401),
        ({"iss": ISSUER.upper()}, 401),
        ({"sub": "system:serviceaccount:team-a:batch"}, 401),
        ({"kubernetes.io": bound(node={"name": "node2"})}, 403),
        ({"kubernetes.io": bound(node=None)}, 403),
        ({"kubernetes.io": bound(pod=None)}, 403),
        ({"jti": None}, 200),
    ],
)
def test_claims_are_checked_in_signed_tokens_too(changes: dict[str, Any], expected: int) -> None:
    assert status(RSA_ISSUER.token(**changes)) == expected


def test_repeated_claim_is_refused_although_it_is_signed() -> None:
    body = json.dumps(claims()).replace('"sub"', '"aud": ["hwsigner"], "sub"', 1).encode()
    assert status(RSA_ISSUER.sign(body)) == 401


def test_short_rsa_key_is_refused() -> None:
    short = ClusterIssuer(rsa.generate_private_key(65537, 1024), "short", "RS256")
    assert status(short.token(), short.jwk(), EC_ISSUER.jwk()) == 401


PARTS = st.sampled_from(["header", "claims", "signature"])


def judge(token: str) -> bool:
    """Return whether a token is one of this cluster for a Pod on node1. Uses neither PyJWT nor the code under test."""
    try:
        header, said = decode(token.split(".")[0]), decode(token.split(".")[1])
        of = said["kubernetes.io"]
        return (
            token.count(".") == 2
            and header["alg"] in ("RS256", "ES256")
            and (RSA_ISSUER if header["alg"] == "RS256" else EC_ISSUER).verifies(token)
            and header.get("kid", "") in ("", "rsa-key" if header["alg"] == "RS256" else "ec-key")
            and isinstance(said["aud"], list)
            and "hwsigner" in said["aud"]
            and said["iss"] == ISSUER
            and said["nbf"] - 60 <= claims()["iat"] < said["exp"]
            and said["sub"] == f"system:serviceaccount:{of['namespace']}:{of['serviceaccount']['name']}"
            and (of["node"]["name"], bool(of["pod"]["name"]), bool(of["pod"]["uid"])) == ("node1", True, True)
        )
    except (ValueError, KeyError, TypeError, IndexError):
        return False


@settings(max_examples=scaled(60), deadline=None)
@given(st.data())
def test_lying_token_is_accepted_only_when_an_independent_judge_accepts_it(data: st.DataObject) -> None:
    signer = data.draw(st.sampled_from([RSA_ISSUER, EC_ISSUER, OTHER_ISSUER]), "signer")
    header = {
        "alg": data.draw(st.sampled_from([signer.algorithm, signer.algorithm, "none", "HS256", "ES256", "RS512"])),
        "kid": data.draw(st.sampled_from([signer.key_id, signer.key_id, "rsa-key", "ec-key", "", "x"])),
    }
    now = claims()["iat"]
    lies = {
        "aud": st.sampled_from([["hwsigner"], ["hwsigner", "x"], ["x"], [], "hwsigner", None]),
        "exp": st.sampled_from([now + 100, now + 2**31, now - 100, None]),
        "nbf": st.sampled_from([now, now - 1000, now + 30, now + 1000, None]),
        "iss": st.sampled_from([ISSUER, ISSUER, "x"]),
        "sub": st.sampled_from(["system:serviceaccount:team-a:web", "system:serviceaccount:team-a:web", "admin"]),
        "kubernetes.io": st.sampled_from(
            [bound(), bound(), bound(node={"name": "node2"}), bound(pod=None), bound(namespace="x"), {}]
        ),
    }
    told = data.draw(st.fixed_dictionaries({}, optional=lies), "lies")
    token = signer.sign(claims(**told), header)
    if data.draw(st.booleans(), "is changed"):
        place = data.draw(st.integers(0, len(token) - 1), "place")
        token = token[:place] + data.draw(st.sampled_from("AZaz09-_. "), "character") + token[place + 1 :]
    assert (status(token) == 200) == judge(token)


class Fetching:
    """Keys from an API server, with a clock."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.clock = Ticking()
        self.cluster = Cluster(api.environ, lambda error: None, folder=str(api.folder))
        self.keys = FetchedKeys(self.cluster, self.clock)

    def knows(self, key_id: str) -> bool:
        try:
            return bool(self.keys.find(key_id))
        finally:
            self.cluster.close()

    @property
    def fetches(self) -> int:
        return len(self.api.requests)


@pytest.fixture
def fetching(api: ApiServer) -> Fetching:
    return Fetching(api)


def test_keys_are_got_once_and_then_kept(fetching: Fetching) -> None:
    assert [fetching.knows("rsa-key") for _ in range(5)] == [True] * 5
    assert fetching.fetches == 1
    assert fetching.api.requests[0][2]["Accept"] == "application/jwk-set+json"


def test_flood_of_unknown_keys_gets_the_keys_once_in_10_s(fetching: Fetching) -> None:
    for fetches in (1, 2):
        assert not fetching.knows("unknown")
        for number in range(200):
            with pytest.raises(VerifierRefusal) as refused:
                fetching.knows(f"unknown-{number}")
            assert refused.value.status == 503
        assert fetching.fetches == fetches
        fetching.clock.now += PAUSE_SECONDS


def test_new_key_is_not_called_bad_before_the_keys_may_be_fetched_again(fetching: Fetching) -> None:
    assert fetching.knows("rsa-key")
    fetching.api.keys.append(EC_ISSUER)
    with pytest.raises(VerifierRefusal) as refused:
        fetching.knows("ec-key")
    assert (refused.value.status, refused.value.is_final) == (503, False)
    fetching.clock.now += PAUSE_SECONDS
    assert fetching.knows("ec-key")


def test_new_key_of_the_cluster_is_found(fetching: Fetching) -> None:
    assert fetching.knows("rsa-key")
    fetching.api.keys.append(EC_ISSUER)
    fetching.clock.now += PAUSE_SECONDS
    assert fetching.knows("ec-key")
    assert fetching.knows("rsa-key")
    assert fetching.fetches == 2


def test_key_that_the_cluster_has_removed_is_not_used_after_5_minutes(fetching: Fetching) -> None:
    fetching.api.keys.append(EC_ISSUER)
    assert fetching.knows("ec-key")
    fetching.api.keys.pop()
    fetching.clock.now += REFRESH_SECONDS
    assert not fetching.knows("ec-key")
    assert fetching.knows("rsa-key")


def test_keys_are_used_for_an_hour_while_the_api_server_is_down(fetching: Fetching) -> None:
    assert fetching.knows("rsa-key")
    fetching.api.answer = lambda exchange: exchange.drop()
    fetching.clock.now += MAX_AGE_SECONDS - 1
    assert fetching.knows("rsa-key")
    with pytest.raises(VerifierRefusal, match="503"):  # It could be a new one.
        fetching.knows("unknown")
    fetching.clock.now += 1
    with pytest.raises(VerifierRefusal) as error:
        fetching.knows("rsa-key")
    assert error.value.status == 503
    assert "closed the connection" in error.value.detail


def test_api_server_that_is_down_is_not_asked_for_each_token(fetching: Fetching) -> None:
    fetching.api.answer = lambda exchange: exchange.drop()
    for _ in range(20):
        with pytest.raises(VerifierRefusal):
            fetching.knows("rsa-key")
    assert fetching.fetches == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": 1}',
        b'{"keys": []}',
        b'{"keys": [1]}',
        b'{"keys": [{"kty": "oct", "kid": "x", "k": "AA"}]}',
    ],
)
def test_answer_without_keys_is_503(fetching: Fetching, body: bytes) -> None:
    fetching.api.answer = lambda exchange: exchange.give(200, body)
    with pytest.raises(VerifierRefusal) as error:
        fetching.knows("rsa-key")
    assert "the API server's keys can't be used" in error.value.detail


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "oct", "kid": "x", "k": "c2VjcmV0", "alg": "HS256"},
        {**RSA_ISSUER.jwk(), "use": "enc"},
        {**RSA_ISSUER.jwk(), "alg": "HS256"},
        {**RSA_ISSUER.jwk(), "alg": "none"},
        {**RSA_ISSUER.jwk(), "kid": None},
        {**EC_ISSUER.jwk(), "alg": "ES384"},
        {**EC_ISSUER.jwk(), "crv": "secp256k1"},
        {**EC_ISSUER.jwk(), "x": "AA"},
        {"kty": "RSA", "kid": "x"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "x", "x": encode(b"x" * 32)},
    ],
)
def test_key_of_another_kind_is_left_out(jwk: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no EC key, and no RSA key"):
        read_keys(json.dumps({"keys": [jwk]}).encode())
    assert list(read_keys(json.dumps({"keys": [jwk, {**RSA_ISSUER.jwk(), "kid": "y"}]}).encode())) == ["y"]


def test_private_parts_of_a_key_are_not_read() -> None:
    keys = read_keys(json.dumps({"keys": [{**RSA_ISSUER.jwk(), "d": "AA", "p": "AA"}]}).encode())
    assert not hasattr(keys["rsa-key"].key, "private_numbers")


def write_keys(path: Path, *issuers: ClusterIssuer) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": [one.jwk() for one in issuers]}))
    new.replace(path)


def test_file_of_keys_needs_no_api_server_and_is_read_again(
    make_pods: Callable[..., Pods], api: ApiServer, tmp_path: Path
) -> None:
    path = tmp_path / "jwks.json"
    write_keys(path, RSA_ISSUER)
    api.environ = {}
    pods = make_pods(KEYS, keys_file=str(path))
    assert pods.status(RSA_ISSUER.token()) == 200
    assert pods.status(EC_ISSUER.token()) == 401
    write_keys(path, EC_ISSUER, OTHER_ISSUER)
    assert pods.status(EC_ISSUER.token()) == 200
    assert pods.status(RSA_ISSUER.token()) == 401
    path.write_text("not a JWKS")
    assert pods.status(EC_ISSUER.token()) == 200
    assert "can't be used: not a JWKS" in pods.log[-1]


@pytest.mark.parametrize(
    ("text", "problem"), [("{}", "not a JWKS"), ('{"keys": []}', "no EC key, and no RSA key of 2048 bits, with an ID")]
)
def test_bad_file_of_keys_is_refused_with_the_command_that_writes_it(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"{problem}\. Write the answer of kubectl get --raw /openid/v1/jwks there"):
        KeysFile(str(path), lambda error: None)


def test_missing_library_is_named_with_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['jwt'] = None\n"
        "from hwsigner._serving.pods import review, verification\n"
        "try: import hwsigner._serving.pods.keys\n"
        "except Exception as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith('verify = "keys" needs PyJWT. Run ')
    assert "'hwsigner[pods]==" in out


def test_review_loads_no_pyjwt() -> None:
    code = "import sys, hwsigner._serving.pods.verification; print('jwt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_keys_need_an_issuer(make_pods: Callable[..., Pods]) -> None:
    with pytest.raises(HwsignerError, match="needs the issuer"):
        make_pods(KEYS, issuer=None)


def test_keys_can_t_see_that_a_pod_is_gone(make_pods: Callable[..., Pods], api: ApiServer) -> None:
    assert make_pods(KEYS).status(RSA_ISSUER.token()) == 200
    assert api.reviews == []
