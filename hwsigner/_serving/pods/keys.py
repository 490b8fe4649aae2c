"""Tokens verified by the cluster's public keys, without a request for each.

The keys say who signed a token, and not whether its Pod and service account are still there.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from hwsigner._serving.pods.cluster import Cluster, described
from hwsigner._serving.pods.refusals import VerifierRefusal, invalid, unverifiable
from hwsigner._serving.pods.token import PodIdentity, PodToken, check_pod, shown
from hwsigner._system.reloading import ReloadedFile, read_file
from hwsigner.errors import ConfigError, HwsignerError, install_command

try:
    import jwt
except ImportError as error:
    raise HwsignerError('verify = "keys" needs PyJWT', f"Run {install_command('pods')}") from error

_PATH = "/openid/v1/jwks"
_MEDIA_TYPE = "application/jwk-set+json"  # The server refuses application/json.
_MAX_KEYS = 20
_MIN_RSA_BITS = 2048
# How long keys from the API server are used before they are fetched again, and while it is down. The latter is what its
# Cache-Control allows.
REFRESH_SECONDS = 300.0
MAX_AGE_SECONDS = 3600.0
# Between two requests for them, whatever keys the tokens name.
PAUSE_SECONDS = 10.0
# How far the API server's clock may be ahead, as for the API server itself. A token is never good after its end.
CLOCK_SECONDS = 60

_RSA = frozenset({"RS256", "RS384", "RS512"})
_CURVES = {curve: frozenset({name}) for curve, name in {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}.items()}


class ClusterKey(NamedTuple):
    """A public key of the cluster, and the algorithms that fit it."""

    key: Any
    algorithms: frozenset[str]


class ClusterKeys(Protocol):
    """The keys of the cluster, by their IDs. Thread-safe."""

    def find(self, key_id: str) -> Sequence[ClusterKey]:
        """Return the keys of an ID; all keys if it is empty. May take seconds.

        If there are no keys, this is a VerifierRefusal of status 503.
        """
        ...


class KeyVerifier:
    """Verifies tokens by the cluster's keys. A TokenVerifier.

    A token must have one of the audiences and the issuer, and be of a Pod on the node.
    """

    def __init__(
        self,
        keys: ClusterKeys,
        *,
        audiences: tuple[str, ...],
        issuer: str,
        node: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._audiences = audiences
        self._issuer = issuer
        self._node = node
        self._now = now

    def __call__(self, token: PodToken) -> PodIdentity:
        """Implement TokenVerifier."""
        keys = [key for key in self._keys.find(token.key_id) if token.algorithm in key.algorithms]
        refusal = _bad(f"no key of the cluster has the ID {shown(token.key_id)!r} and is for its algorithm")
        for key in keys:
            try:
                self._check(token, key)
                break
            except jwt.PyJWTError as error:
                refusal = _bad(f"PyJWT says: {error}")
        else:
            raise refusal
        if not token.not_before - CLOCK_SECONDS <= self._now() < token.identity.expiration:
            raise _bad("it is expired, or not valid yet")
        check_pod(token.identity, self._node)
        return token.identity

    def _check(self, token: PodToken, key: ClusterKey) -> None:
        """Check the signature, the audience and the issuer. Raise an error of PyJWT if one is wrong."""
        # PyJWT has one leeway for all times, so the caller checks those.
        options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
        jwt.decode(
            token.text,
            key.key,
            algorithms=[token.algorithm],
            audience=self._audiences,
            issuer=self._issuer,
            options=options,
        )


class KeysFile:
    """Keys in a file, which is read again when it changes.

    `report` takes an error if the file is replaced by a bad one, in any thread.
    """

    def __init__(self, path: str, report: Callable[[HwsignerError], None]) -> None:
        self._file = ReloadedFile(path, _read_file, report)

    def find(self, key_id: str) -> Sequence[ClusterKey]:
        """Implement ClusterKeys."""
        return _of(self._file.content(), key_id)


class FetchedKeys:
    """Keys from the API server. They are fetched again for an unknown ID, but at most once in PAUSE_SECONDS."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: Mapping[str, ClusterKey] = {}
        self._fetched = self._asked = float("-inf")  # When keys came, and when they were asked for.
        self._failure = ""

    def find(self, key_id: str) -> Sequence[ClusterKey]:
        """Implement ClusterKeys."""
        found = self._known(key_id, REFRESH_SECONDS)
        if not found:
            with self._lock:
                found = self._known(key_id, REFRESH_SECONDS) or self._ask(key_id)
        return found

    def _known(self, key_id: str, max_age: float) -> Sequence[ClusterKey]:
        return _of(self._keys, key_id) if self._clock() < self._fetched + max_age else ()

    def _ask(self, key_id: str) -> Sequence[ClusterKey]:
        """Fetch the keys again, unless that was tried just now, and return those of an ID. Use old ones if it fails."""
        if self._clock() >= self._asked + PAUSE_SECONDS:
            self._asked = self._clock()
            try:
                self._keys, self._fetched = self._fetch(), self._asked
            except VerifierRefusal as error:
                self._failure = error.detail
            else:
                self._failure = "a token's key is not among those that were fetched just now"
                return _of(self._keys, key_id)
        found = self._known(key_id, MAX_AGE_SECONDS)
        if not found:  # The key may be a new one.
            raise unverifiable(self._failure, PAUSE_SECONDS)
        return found

    def _fetch(self) -> Mapping[str, ClusterKey]:
        response = self._cluster.request("GET", _PATH, _MEDIA_TYPE)
        if response.status != HTTPStatus.OK:
            raise unverifiable(f"the API server did not give its keys ({described(response)})")
        try:
            return read_keys(response.body)
        except ValueError as error:
            raise unverifiable(f"the API server's keys can't be used: {error}") from None


def read_keys(data: bytes) -> Mapping[str, ClusterKey]:
    """Return the keys of a JWKS that can be used, by their IDs. If there is none, this is a ValueError."""
    try:
        listed = json.loads(data)["keys"]
        keys = {one["kid"]: key for one in listed[:_MAX_KEYS] if (key := _read_key(one))}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError("not a JWKS") from None
    if not keys:
        raise ValueError(f"no EC key, and no RSA key of {_MIN_RSA_BITS} bits, with an ID")
    return keys


def _of(keys: Mapping[str, ClusterKey], key_id: str) -> Sequence[ClusterKey]:
    return [key for name, key in keys.items() if key_id in ("", name)]


def _read_key(listed: dict[str, Any]) -> ClusterKey | None:
    """Return a key of a JWKS; None if it is for something else."""
    kind, algorithm = listed.get("kty"), listed.get("alg")
    if not isinstance(listed.get("kid"), str) or listed.get("use", "sig") != "sig":
        return None
    algorithms = _RSA if kind == "RSA" else _CURVES.get(listed.get("crv", ""), frozenset())
    if algorithm is not None:
        algorithms &= {algorithm}
    if kind not in ("RSA", "EC") or not algorithms:
        return None
    try:  # Only what a public key has.
        public: dict[str, Any] = {name: listed[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in listed}
        key = jwt.PyJWK(public, algorithm=min(algorithms)).key
    except jwt.PyJWTError:
        return None
    if kind == "RSA" and key.key_size < _MIN_RSA_BITS:
        return None
    return ClusterKey(key, algorithms)


def _read_file(path: str) -> Mapping[str, ClusterKey]:
    try:
        return read_keys(read_file(path))
    except ValueError as error:
        hint = "Write the answer of kubectl get --raw /openid/v1/jwks there"
        raise ConfigError(f"{path} can't be used: {error}", hint) from None


def _bad(detail: str) -> VerifierRefusal:
    return invalid("the token is not valid in this cluster", detail)
