"""Tokens of all kinds, made by a real API server or in its name, and what it says of them."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cluster.api import API
from cluster.kube import NODE

AUDIENCE, EKS_AUDIENCE = "hwsigner", "pods.eks.amazonaws.com"
# Those of `serve --pods`, in its namespace.
REVIEWER = "hwsigner/hwsigner"
# A recorded token is read long after it was made. No token can last longer than 2**32 s.
_CENTURY = 3_155_760_000
WEB = "system:serviceaccount:team-a:web"
ANONYMOUS = "system:anonymous"


class Case(NamedTuple):
    """A token that a client may send.

    Attributes:
        says: what the API server says of it: the username, or a part of its error.
        is_valid: whether it is the token of a Pod of this node, for hwsigner.
        is_seen_offline: whether the cluster's keys and the claims alone show that it is not valid.
    """

    says: str
    is_valid: bool = False
    is_seen_offline: bool = True


CASES = {
    "good": Case(WEB, is_valid=True),
    "two audiences": Case(WEB, is_valid=True),
    "another account": Case("system:serviceaccount:team-b:batch", is_valid=True),
    "another account's other Pod": Case("system:serviceaccount:team-b:web", is_valid=True),
    "without a key's name": Case(WEB, is_valid=True),
    "sub of another account": Case(WEB),
    "audience of EKS": Case('token audiences ["pods.eks.amazonaws.com"] is invalid'),
    "foreign audience": Case('token audiences ["sts.example"] is invalid'),
    "audience of the API server": Case('token audiences ["https://kubernetes.default.svc.cluster.local"] is invalid'),
    "not bound": Case(WEB),
    "bound to the node": Case(WEB),
    "Pod without a node": Case(WEB),
    "Pod of another node": Case(WEB),
    "deleted Pod": Case("service account token has been invalidated", is_seen_offline=False),
    "Pod that was made again": Case("does not match service account pod ref claim", is_seen_offline=False),
    "deleted account": Case('serviceaccounts "gone" not found', is_seen_offline=False),
    "Pod that never was": Case("service account token has been invalidated", is_seen_offline=False),
    "expired": Case("service account token has expired"),
    "expired 20 s ago": Case(WEB),
    "not valid yet": Case("service account token is not valid yet"),
    "without an end": Case(WEB),
    "signed by another key": Case("error in cryptographic primitive"),
    "signed by an unknown key": Case("invalid signature, no keys found"),
    "without a signature": Case("error in cryptographic primitive"),
    "signature that is cut": Case("error in cryptographic primitive"),
    "another issuer": Case("invalid bearer token"),
    "changed claims": Case("error in cryptographic primitive"),
    "blank in front": Case(ANONYMOUS),
    "blank": Case(ANONYMOUS),
    "line feed at the end": Case(WEB),
    "a word at the end": Case(WEB),
    "garbage": Case("invalid bearer token"),
    "three parts of garbage": Case("invalid bearer token"),
}


def furnish(api: API) -> None:
    """Make namespaces, accounts and Pods, and the right to review for the account of `serve --pods`."""
    for namespace in ("team-a", "team-b", "hwsigner"):
        api.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for account in ("team-a/web", "team-a/gone", "team-b/web", "team-b/batch", REVIEWER, "hwsigner/powerless"):
        api.make_account(account)
    api.make({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node2"}})
    for pod in ("team-a/web-1", "team-a/deleted", "team-a/remade", "team-b/web-1"):
        api.make_pod(pod, "web")
    api.make_pod("team-a/web-2", "web", node=None)
    api.make_pod("team-a/web-3", "web", node="node2")
    api.make_pod("team-a/gone-1", "gone")
    api.make_pod("team-b/batch-1", "batch")
    api.make_pod("hwsigner/stale", "hwsigner")
    api.make(binding("ClusterRole", "system:auth-delegator"))


def binding(kind: str, role: str) -> dict[str, Any]:
    """Return what gives a role to the account of `serve --pods`."""
    namespace, name = REVIEWER.split("/")
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "hwsigner-review"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }


def make_tokens(api: API, folder: Path) -> dict[str, str]:
    """Return a token for each case, and those of reviewers, by name. Then some of their Pods and accounts are gone."""
    tokens = _minted(api)
    tokens |= _forged(tokens["good"], folder)
    for pod in ("deleted", "remade"):
        api.delete("pods", "team-a", pod)
    api.make_pod("team-a/remade", "web")
    api.delete("serviceaccounts", "team-a", "gone")
    api.delete("pods", "hwsigner", "stale")
    assert CASES.keys() < tokens.keys()
    return tokens


def _minted(api: API) -> dict[str, str]:
    def token(account: str, bound_to: str | None, *audiences: str, kind: str = "Pod") -> str:
        return api.token(account, *(audiences or (AUDIENCE,)), seconds=_CENTURY, kind=kind, bound_to=bound_to)

    issuer = parts(token("team-a/web", "web-1"))[1]["iss"]
    return {
        "good": token("team-a/web", "web-1"),
        "two audiences": token("team-a/web", "web-1", AUDIENCE, "sts.example"),
        "another account": token("team-b/batch", "batch-1"),
        "another account's other Pod": token("team-b/web", "web-1"),
        "audience of EKS": token("team-a/web", "web-1", EKS_AUDIENCE),
        "foreign audience": token("team-a/web", "web-1", "sts.example"),
        "audience of the API server": token("team-a/web", "web-1", issuer),
        "not bound": token("team-a/web", None),
        "bound to the node": token("team-a/web", NODE, kind="Node"),
        "Pod without a node": token("team-a/web", "web-2"),
        "Pod of another node": token("team-a/web", "web-3"),
        "deleted Pod": token("team-a/web", "deleted"),
        "Pod that was made again": token("team-a/web", "remade"),
        "deleted account": token("team-a/gone", "gone-1"),
        "reviewer": token(REVIEWER, None, issuer),
        "next reviewer": token(REVIEWER, None, issuer),
        "stale reviewer": token(REVIEWER, "stale", issuer),
        "powerless reviewer": token("hwsigner/powerless", None, issuer),
    }


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a token's header and claims."""
    header, claims = (json.loads(base64.urlsafe_b64decode(f"{part}==")) for part in token.split(".")[:2])
    return header, claims


def sign(key: Any, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """Return a token. Claims that are None are left out."""
    claims = {name: value for name, value in claims.items() if value is not None}
    signed = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
    return b".".join([signed, _base64(key.sign(signed, padding.PKCS1v15(), SHA256()))]).decode()


def just_expired(good: str, folder: Path) -> str:
    """Return a token that expired 20 s ago, signed with the API server's key, which accepts it for 60 s."""
    (header, claims), now = parts(good), int(time.time())
    return sign(_key(folder), header, {**claims, "iat": now - 620, "nbf": now - 620, "exp": now - 20})


def _forged(good: str, folder: Path) -> dict[str, str]:
    """Return tokens that no API server makes. Some are signed with its key."""
    (header, claims), now = parts(good), int(time.time())
    key, other = _key(folder), rsa.generate_private_key(65537, 2048)
    pod = {"name": "never", "uid": "00000000-0000-4000-8000-000000000000"}
    first, _, signature = good.split(".")
    changed = sign(other, header, {**claims, "sub": "system:serviceaccount:kube-system:admin"}).split(".")[1]
    unsigned = sign(key, {**header, "alg": "none"}, claims).rpartition(".")[0]
    instead: dict[str, dict[str, Any]] = {
        "sub of another account": {"sub": "system:serviceaccount:team-b:batch"},
        "Pod that never was": {"kubernetes.io": {**claims["kubernetes.io"], "pod": pod}},
        "expired": {"iat": now - 90_000, "nbf": now - 90_000, "exp": now - 86_400},
        "not valid yet": {"nbf": now + _CENTURY // 2},
        "without an end": {"exp": None},
        "another issuer": {"iss": "https://elsewhere.example"},
    }
    return {
        **{name: sign(key, header, {**claims, **claim}) for name, claim in instead.items()},
        "expired 20 s ago": just_expired(good, folder),
        "without a key's name": sign(key, {"alg": "RS256"}, claims),
        "signed by another key": sign(other, header, claims),
        "signed by an unknown key": sign(other, {**header, "kid": "A" * 43}, claims),
        "without a signature": f"{unsigned}.",
        "signature that is cut": f"{good.rpartition('.')[0]}.{signature[:-8]}",
        "changed claims": ".".join([first, changed, signature]),
        "blank in front": f" {good}",
        "blank": " ",
        "line feed at the end": f"{good}\n",
        "a word at the end": f"{good} more",
        "garbage": "x",
        "three parts of garbage": "a.b.c",
    }


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _key(folder: Path) -> Any:
    return load_pem_private_key((folder / "sa.key").read_bytes(), None)
