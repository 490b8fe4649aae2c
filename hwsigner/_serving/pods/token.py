"""A service-account token: the Pod that it says, its form, and what it claims before anything has verified it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from hwsigner._serving.pods.refusals import VerifierRefusal, invalid

# One with the longest names has 2.8 KB.
MAX_BYTES = 8192
# Objects and lists in the claims. There are six; a thousand within each other cost a millisecond.
_MAX_NESTED = 64
_FORM = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_USERNAME = re.compile(
    r"system:serviceaccount:([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?):([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)"
)
_SHOWN = 300


class PodIdentity(NamedTuple):
    """What a valid token says: the names and the UID are the API server's.

    Another Pod may get the same name later, but not the UID. `expiration` is in seconds since 1970.
    """

    namespace: str
    service_account: str
    pod: str
    pod_uid: str
    node: str
    expiration: float

    @property
    def account(self) -> str:
        """The service account as in the policy: `namespace/serviceaccount`."""
        return f"{self.namespace}/{self.service_account}"


class PodToken(NamedTuple):
    """A token of the right form. Nothing in it is proven.

    Times are in seconds since 1970. Names that the token does not have are empty, and so is the key's ID.
    """

    text: str
    key_id: str
    algorithm: str
    audiences: tuple[str, ...]
    issuer: str
    not_before: int
    identity: PodIdentity


class TokenVerifier(Protocol):
    """Finds the Pod of a token: by TokenReview, or by the cluster's keys. May be called from several threads."""

    def __call__(self, token: PodToken) -> PodIdentity:
        """Return the Pod of a token. May take seconds.

        Raises:
            VerifierRefusal: 401 or 403 if the token is not valid here; 503 if the token can't be verified now.
        """


def read_token(token: bytes) -> PodToken:
    """Return a token, and what it claims. Anything but a service-account token is a VerifierRefusal of status 401."""
    if len(token) > MAX_BYTES or not _FORM.fullmatch(token):
        raise _not_a_token()
    try:
        header, claims, _ = [_decode(part) for part in token.split(b".")]
        read = _read_object(header), _read_object(claims)
        return _read_claims(token.decode(), *read)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _not_a_token() from None


def account_of(username: object) -> tuple[str, str] | None:
    """Return the namespace and the name of a service account's user; None if it is another user."""
    found = _USERNAME.fullmatch(username) if isinstance(username, str) else None
    return (found[1], found[2]) if found else None


def check_audience(token: PodToken, audiences: tuple[str, ...]) -> None:
    """Refuse a token that has none of these audiences, with status 401."""
    if set(audiences).isdisjoint(token.audiences):
        raise invalid(f"the token is for the audience {shown(*token.audiences)}, not {shown(*audiences)}")


def check_pod(identity: PodIdentity, node: str) -> None:
    """Refuse a token that is not bound to a Pod of this node, with status 403."""
    if not identity.pod or not identity.pod_uid:
        problem = "the token is not bound to a Pod: use one of a projected volume"
    elif not identity.node:
        problem = "the token does not name the Pod's node, as tokens of Kubernetes 1.32 do"
    elif identity.node != node:
        problem = f"the token is of a Pod on node {shown(identity.node)}, and this is node {node}"
    else:
        return
    raise VerifierRefusal(HTTPStatus.FORBIDDEN, problem)


def shown(*texts: str) -> str:
    """Return texts from outside for a message, at most 300 characters."""
    text = ", ".join(texts)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _not_a_token() -> VerifierRefusal:
    return invalid("the Authorization header is not just a service account's token")


def _decode(part: bytes) -> bytes:
    """Decode base64url without padding. Unused bits must be 0: otherwise, a token would have several spellings."""
    data = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part:
        raise binascii.Error
    return data


def _read_object(data: bytes) -> dict[str, Any]:
    if data.count(b"{") + data.count(b"[") > _MAX_NESTED:
        raise ValueError
    value = json.loads(data.decode(), object_pairs_hook=_without_repeats)
    if not isinstance(value, dict):
        raise TypeError
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # The API server could read the other value.
        raise ValueError
    return found


def _read_claims(text: str, header: dict[str, Any], claims: dict[str, Any]) -> PodToken:
    """Return a token. If it lacks what all of them have, raise one of the errors of `read_token`."""
    if "crit" in header:  # It requires an extension, and hwsigner has none.
        raise ValueError
    audiences = claims["aud"]
    if not isinstance(audiences, list):
        raise TypeError
    bound = claims["kubernetes.io"]
    namespace, account = _text(bound["namespace"]), _text(bound["serviceaccount"]["name"])
    if claims["sub"] != f"system:serviceaccount:{namespace}:{account}" or not account_of(claims["sub"]):
        raise ValueError
    pod, node = bound.get("pod", {}), bound.get("node", {})
    return PodToken(
        text,
        _text(header.get("kid", "")),
        _text(header["alg"]),
        tuple(map(_text, audiences)),
        _text(claims["iss"]),
        _seconds(claims["nbf"]),
        PodIdentity(
            namespace,
            account,
            _text(pod.get("name", "")),
            _text(pod.get("uid", "")),
            _text(node.get("name", "")),
            _seconds(claims["exp"]),
        ),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _seconds(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise TypeError
    return value
