"""IMDSv2, as of EC2 and as far as credentials go: a token for a PUT, then the role's name, then its credentials."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from pathlib import Path

from hwsigner.serving.admission import IMDS_SECONDS, IMDS_TOKEN, Scope
from hwsigner.serving.credentials import Replies
from hwsigner.serving.known import CONNECTION, Known
from hwsigner.serving.peer import Address, Connection, Owners
from hwsigner.serving.responses import TEXT, Admitted, Answer, Headers, Refusal, answer
from hwsigner.system.clocks import boot_time

LONGEST_SECONDS = 21600

_EXPIRY_LENGTH = 16
# Another one each time that the machine starts, and with it the clock.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SessionTokens:
    """Issues tokens and knows its own again, and those of another run with the same secret, until the machine restarts.

    Some SDKs (Ruby's) keep a token for six hours, and are at a loss for minutes when it is not known any more.

    Args:
        secret: 32 bytes of chance or more, which the tokens tell nobody.
        clock: tells seconds by a clock that nobody sets.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = boot_time) -> None:
        self.clock = clock
        self._key = hmac.digest(secret, b"IMDSv2 " + _BOOT_ID.read_bytes(), "sha256")

    def issue(self, seconds: int) -> bytes:
        """Return a token that is good for some seconds: 80 hexadecimal digits."""
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


FOLDER = "/latest/"
TOKEN_PATH = "/latest/api/token"  # noqa: S105
ROLES_PATH = "/latest/meta-data/iam/security-credentials/"


class IMDS:
    """Gives tokens to the processes of some users, and to who has one the credentials of a role.

    Args:
        role: the role's name.
        replies: its credentials.
        users: the uids whose processes may have tokens.
        owners: says whose a connection is.
        tokens: issues the tokens.
    """

    def __init__(
        self, role: str, replies: Replies, *, users: Iterable[int], owners: Owners, tokens: SessionTokens
    ) -> None:
        self._role = answer(role.encode(), TEXT)
        self._replies = replies
        self._users = frozenset(users)
        self._owners = owners
        self._tokens = tokens

    def admit_token(self, headers: Headers, scope: Scope) -> Admitted:
        """Return what answers with a new token, or refuses with 403 where the caller is another user.

        Raises:
            Refusal: 400, its life in seconds is missing or none.
        """
        seconds = _seconds(headers.get(IMDS_SECONDS, b""))
        return Admitted(lambda: None, partial(self._give_token, seconds, scope))

    def admit_role(self, headers: Headers, scope: Scope) -> Admitted:
        """Return what answers with the role's name; raises as `check`."""
        return Admitted(partial(self._until, self.check(headers), lambda: self._role), self._replies.wait)

    def admit_credentials(self, headers: Headers, scope: Scope) -> Admitted:
        """Return what answers with the role's credentials; raises as `check`."""
        return Admitted(partial(self._until, self.check(headers), self._replies.now), self._replies.wait)

    def check(self, headers: Headers) -> float:
        """Return when the token of a request expires.

        Raises:
            Refusal: 401, it has none that is good.
        """
        expiry = self._tokens.expiry(headers.get(IMDS_TOKEN, b""))
        if expiry is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, f"the request has no {IMDS_TOKEN.decode()} of this server")
        self._refuse_after(expiry)
        return expiry

    def _until(self, expiry: float, now: Callable[[], Answer | None]) -> Answer | None:
        self._refuse_after(expiry)
        return now()

    def _refuse_after(self, expiry: float) -> None:
        if self._tokens.clock() >= expiry:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "the token has expired")

    async def _give_token(self, seconds: int, scope: Scope) -> Answer:
        user = await self._user(scope)
        if user not in self._users:
            whose = "that of another machine or namespace" if user is None else f"uid {user}'s"
            raise Refusal(HTTPStatus.FORBIDDEN, f"the connection is {whose}; --allow-user would let one in")
        return answer(self._tokens.issue(seconds), TEXT, headers={IMDS_SECONDS: b"%d" % seconds})

    async def _user(self, scope: Scope) -> int | None:
        """Return the uid of who made the connection, looked up once for each."""
        known: Known = scope["state"][CONNECTION]
        if known.user is None:
            connection = Connection(Address(*scope["client"]), Address(*scope["server"]))
            known.user = await self._owners.owner(connection)
        return known.user


def _seconds(text: bytes) -> int:
    if text.isdigit() and len(text) < 9 and 1 <= int(text) <= LONGEST_SECONDS:
        return int(text)
    raise Refusal(HTTPStatus.BAD_REQUEST, f"{IMDS_SECONDS.decode()} is not 1 to {LONGEST_SECONDS}")
