"""IMDSv2 of EC2, as far as credentials go: a token for a PUT, then the role's name, then the role's credentials."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from pathlib import Path

from hwsigner.serving.admission import IMDS_SECONDS, IMDS_TOKEN
from hwsigner.serving.credentials import CachedCredentials
from hwsigner.serving.peer import Peer
from hwsigner.serving.responses import TEXT, Headers, Refusal, Response, response
from hwsigner.system.clocks import boot_time

FOLDER = "/latest/"
TOKEN_PATH = "/latest/api/token"  # noqa: S105
ROLES_PATH = "/latest/meta-data/iam/security-credentials/"

LONGEST_SECONDS = 21600

_EXPIRY_LENGTH = 16
# Changes when the machine restarts, and the clock with it.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SessionTokens:
    """Issues tokens and recognises them, in a later run with the same secret too, until the machine restarts.

    Some SDKs (Ruby's) keep a token for six hours, and fail for minutes when it is no longer recognised.

    Args:
        secret: 32 random bytes or more. It can't be found from the tokens.
        clock: tells seconds by a clock that can't be set.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = boot_time) -> None:
        self.clock = clock
        self._key = hmac.digest(secret, b"IMDSv2 " + _BOOT_ID.read_bytes(), "sha256")

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
    """Gives tokens to the processes of some users, and a role's credentials to clients with a token.

    Args:
        role: the role's name.
        credentials: its credentials.
        users: the uids whose processes may have tokens.
        tokens: issues the tokens.
        log: takes a line if the kernel can't tell users apart.
    """

    def __init__(
        self,
        role: str,
        credentials: CachedCredentials,
        *,
        users: Iterable[int],
        tokens: SessionTokens,
        log: Callable[[str], None],
    ) -> None:
        self._role = response(role.encode(), TEXT)
        self._credentials = credentials
        self._users = frozenset(users)
        self._tokens = tokens
        self._log: Callable[[str], None] | None = log

    def respond_token(self, headers: Headers, peer: Peer) -> Response:
        """Return a new token.

        Raises:
            Refusal: 400 if its life in seconds is missing or invalid; 403 if the client is another user; 503 if the
                kernel can't tell.
        """
        seconds = _seconds(headers.get(IMDS_SECONDS, b""))
        uid = self._uid(peer)
        if uid not in self._users:
            whose = "that of another machine or namespace" if uid is None else f"uid {uid}'s"
            raise Refusal(HTTPStatus.FORBIDDEN, f"the connection is {whose}; --allow-user would let one in")
        return response(self._tokens.issue(seconds), TEXT, headers={IMDS_SECONDS: b"%d" % seconds})

    def respond_role(self, headers: Headers, peer: Peer) -> Response:
        """Return the role's name; raises as `check`."""
        self.check(headers)
        return self._role

    def respond_credentials(self, headers: Headers, peer: Peer) -> Response | Awaitable[Response]:
        """Return the role's credentials; raises as `check`."""
        self.check(headers)
        return self._credentials.respond()

    def check(self, headers: Headers) -> None:
        """Check the token of a request.

        Raises:
            Refusal: 401 if it has none, or an invalid or expired one.
        """
        expiry = self._tokens.expiry(headers.get(IMDS_TOKEN, b""))
        if expiry is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, f"the request has no {IMDS_TOKEN.decode()} of this server")
        if self._tokens.clock() >= expiry:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "the token has expired")

    def _uid(self, peer: Peer) -> int | None:
        try:
            return peer.uid
        except OSError as error:
            if self._log:
                problem = f"the kernel does not say which user asks ({error.strerror})"
                self._log(f"IMDS gives no tokens, since {problem}: run modprobe tcp_diag")
                self._log = None  # Once is enough.
            reason = "the kernel does not say which user asks: run modprobe tcp_diag"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, reason) from None


def _seconds(text: bytes) -> int:
    if text.isdigit() and len(text) < 9 and 1 <= int(text) <= LONGEST_SECONDS:
        return int(text)
    raise Refusal(HTTPStatus.BAD_REQUEST, f"{IMDS_SECONDS.decode()} is not 1 to {LONGEST_SECONDS}")
