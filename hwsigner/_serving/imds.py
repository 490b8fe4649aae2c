"""IMDSv2 of EC2, as far as credentials go: a token for a PUT, then the role's name, then the role's credentials."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from hwsigner._serving.admission import IMDS_SECONDS, IMDS_TOKEN, Users
from hwsigner._serving.credentials import CredentialResponses, Give
from hwsigner._serving.peer import Peer
from hwsigner._serving.responses import TEXT, Headers, HTTPRefusal, HTTPResponse, response
from hwsigner._system.clocks import boot_id, boot_time

FOLDER = "/latest/"
TOKEN_PATH = "/latest/api/token"  # noqa: S105
ROLES_PATH = "/latest/meta-data/iam/security-credentials"

LONGEST_SECONDS = 21600

_EXPIRY_LENGTH = 16


class SessionTokens:
    """Issues tokens and recognises them, in a later run with the same secret too, until the machine restarts.

    Some SDKs (Ruby's) keep a token for six hours, and fail for minutes when it is no longer recognised. The secret is
    32 random bytes or more, and can't be found from the tokens. The clock can't be set.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = boot_time) -> None:
        self.clock = clock
        # If the boot has no id, tokens are recognised in this run of the program only.
        self._key = hmac.digest(secret, b"IMDSv2 " + (boot_id() or secrets.token_bytes(16)), "sha256")

    def issue(self, seconds: int) -> bytes:
        """Return a token that is valid for some seconds: 80 hexadecimal digits, its expiry and a MAC."""
        expiry = b"%016x" % int(self.clock() + seconds)
        return expiry + self._mac(expiry)

    def expiry(self, token: bytes) -> float | None:
        """Return when a token expires or expired, by the clock; None if it was not issued here."""
        expiry = token[:_EXPIRY_LENGTH]
        if hmac.compare_digest(token[_EXPIRY_LENGTH:], self._mac(expiry)):
            return int(expiry, 16)
        return None

    def _mac(self, expiry: bytes) -> bytes:
        return hmac.digest(self._key, expiry, "sha256").hex().encode()


class IMDS:
    """The endpoint: gives tokens, and with a token a role's credentials, to the processes of these users."""

    def __init__(
        self,
        role: str,
        credentials: CredentialResponses,
        *,
        users: Users,
        tokens: SessionTokens,
        give: Give | None = None,
    ) -> None:
        self._role = role.encode()
        self._credentials = credentials
        self._users = users
        self._tokens = tokens
        self._give = give

    def respond_token(self, headers: Headers, peer: Peer) -> HTTPResponse:
        """Return a new token. If its life in seconds is missing or invalid, the status is 400."""
        seconds = _seconds(headers.get(IMDS_SECONDS, b""))
        self._users.check(peer)
        return response(self._tokens.issue(seconds), TEXT, headers={IMDS_SECONDS: b"%d" % seconds})

    def respond_role(self, headers: Headers, peer: Peer) -> HTTPResponse:
        """Return the role's name, and the seconds that the token is still valid; raises as `check`."""
        left = self.check(headers, peer)
        return response(self._role, TEXT, headers={IMDS_SECONDS: b"%d" % left})

    def respond_credentials(self, headers: Headers, peer: Peer) -> HTTPResponse | Awaitable[HTTPResponse]:
        """Return the role's credentials; raises as `check`."""
        self.check(headers, peer)
        return self._credentials.respond(peer, self._give)

    def check(self, headers: Headers, peer: Peer) -> float:
        """Return for how many seconds the token of a request is still valid.

        Without a valid token, the status is 401.
        """
        self._users.check(peer)
        expiry = self._tokens.expiry(headers.get(IMDS_TOKEN, b""))
        if expiry is None:
            raise HTTPRefusal(HTTPStatus.UNAUTHORIZED, f"the request has no {IMDS_TOKEN.decode()} of this server")
        left = expiry - self._tokens.clock()
        if left <= 0:
            raise HTTPRefusal(HTTPStatus.UNAUTHORIZED, "the token has expired")
        return left


def _seconds(text: bytes) -> int:
    if text.isdigit() and len(text) < 9 and 1 <= int(text) <= LONGEST_SECONDS:
        return int(text)
    raise HTTPRefusal(HTTPStatus.BAD_REQUEST, f"{IMDS_SECONDS.decode()} is not 1 to {LONGEST_SECONDS}")
