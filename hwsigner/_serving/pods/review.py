"""TokenReview: the API server says whose a token is. It sees the end of Pods and service accounts."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from hwsigner._http.transport import Response
from hwsigner._serving.pods.cluster import Cluster, described
from hwsigner._serving.pods.refusals import VerifierRefusal, invalid, unverifiable
from hwsigner._serving.pods.token import PodIdentity, PodToken, account_of, check_pod, shown

_PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
_EXTRA = "authentication.kubernetes.io/"


class TokenReviewer:
    """Has the API server review tokens. A TokenVerifier.

    A token must have one of the audiences, and be of a Pod on the node.
    """

    def __init__(self, cluster: Cluster, audiences: tuple[str, ...], node: str) -> None:
        self._cluster = cluster
        self._audiences = audiences
        self._node = node

    def __call__(self, token: PodToken) -> PodIdentity:
        """Implement TokenVerifier."""
        spec = {"token": token.text, "audiences": self._audiences}
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        response = self._cluster.request("POST", _PATH, "application/json", json.dumps(review).encode())
        identity = self._identity(_status(response), token.identity.expiration)
        check_pod(identity, self._node)
        if identity != token.identity:
            raise unverifiable("the API server's answer is not about the token that was sent")
        return identity

    def _identity(self, status: dict[str, Any], expiration: float) -> PodIdentity:
        """Return the Pod of an answer. Its names that the answer lacks are empty."""
        user = status.get("user")
        if status.get("authenticated") is not True or not isinstance(user, dict):
            raise invalid("the token is not valid in this cluster", _error(status))
        account = account_of(user.get("username"))
        if account is None:
            raise invalid("the token is not a service account's", f"the user is {user.get('username')!r:.100}")
        audiences = status.get("audiences")
        if not isinstance(audiences, list) or not any(one in self._audiences for one in audiences):
            raise invalid("the token is for another audience", f"the audiences are {audiences!r:.100}")
        extra = user.get("extra")
        names = [_one(extra, name) for name in ("pod-name", "pod-uid", "node-name")]
        return PodIdentity(*account, names[0], names[1], names[2], expiration)


def _status(response: Response) -> dict[str, Any]:
    """Return the status of a review."""
    review = response.json_object()
    status = review.get("status")
    is_review = response.status in (HTTPStatus.OK, HTTPStatus.CREATED) and review.get("kind") == "TokenReview"
    if not is_review or not isinstance(status, dict):
        raise _unexpected(response)
    return status


def _unexpected(response: Response) -> VerifierRefusal:
    return unverifiable(f"the API server did not answer the TokenReview ({described(response)})")


def _error(status: dict[str, Any]) -> str:
    error = status.get("error")
    return f"the API server says: {shown(error)}" if isinstance(error, str) else "the API server gives no reason"


def _one(extra: object, name: str) -> str:
    """Return the only value of an attribute; an empty string without it."""
    values = extra.get(_EXTRA + name) if isinstance(extra, dict) else None
    return values[0] if isinstance(values, list) and len(values) == 1 and isinstance(values[0], str) else ""
