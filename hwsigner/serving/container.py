"""The container credentials endpoint, as of ECS and EKS: a path for each profile, and a token in `Authorization`."""

from __future__ import annotations

import hmac
from http import HTTPStatus
from urllib.parse import quote

from hwsigner.serving.admission import AUTHORIZATION, Scope
from hwsigner.serving.credentials import Replies
from hwsigner.serving.responses import Admitted, Headers, Refusal

_FOLDER = "/credentials/"


def container_path(profile: str) -> str:
    """Return the path of a profile's credentials, percent-encoded."""
    return _FOLDER + quote(profile, safe="")


class Container:
    """One profile's credentials, for who has its token.

    Args:
        replies: the credentials.
        token: the whole value of `Authorization`.
    """

    def __init__(self, replies: Replies, token: bytes) -> None:
        self._replies = replies
        self._token = token

    def admit(self, headers: Headers, scope: Scope) -> Admitted:
        """Return what answers with the credentials.

        Raises:
            Refusal: 401, without the token.
        """
        if not hmac.compare_digest(headers.get(AUTHORIZATION, b""), self._token):
            raise Refusal(HTTPStatus.UNAUTHORIZED, "the Authorization header is not the token of this profile")
        return Admitted(self._replies.now, self._replies.wait)
