"""The credentials that the emulator knows: those that it has vended, and those that a test has added."""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime

from hwsigner.errors import UsageError

_KEY_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_ACCESS_KEY_ID = re.compile(r"\w{1,128}", re.ASCII)
_TEXT = re.compile(r"[\x21-\x7e]+")
_ACCOUNT = "123456789012"


@dataclass(frozen=True)
class Credentials:
    """One set of credentials and whom it stands for.

    Attributes:
        access_key_id: their name.
        secret_access_key: what signatures are made with.
        session_token: what must be sent with them, or an empty string.
        expiration: when they end, or None.
        arn: the caller's ARN.
        user_id: the caller's unique id.
        account: twelve digits.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expiration: datetime | None
    arn: str
    user_id: str
    account: str


# Of that many, the oldest are forgotten: a test that runs for days must not grow for ever.
_MOST = 10_000


class Vault:
    """Makes and keeps credentials, and finds them again by their access key id."""

    def __init__(self) -> None:
        self._vended: dict[str, Credentials] = {}
        self._added: dict[str, Credentials] = {}

    def vend(self, *, expiration: datetime, arn: str, user_id: str, account: str) -> Credentials:
        """Make credentials for an assumed role."""
        key_id = "ASIA" + "".join(secrets.choice(_KEY_ID_LETTERS) for _ in range(16))
        secret = base64.b64encode(secrets.token_bytes(30)).decode()
        token = base64.b64encode(secrets.token_bytes(300)).decode()
        vended = Credentials(key_id, secret, token, expiration, arn, user_id, account)
        _keep(self._vended, vended)
        return vended

    def add(self, access_key_id: str, secret_access_key: str, session_token: str | None) -> None:
        """Add credentials of a user, without an end; they replace those of the same access key id.

        Raises:
            UsageError: an access key id that is not 1 to 128 letters and digits, or a secret or session token
                that is empty or not of visible ASCII characters.
        """
        if not _ACCESS_KEY_ID.fullmatch(access_key_id):
            raise UsageError("not an access key id", "Give 1 to 128 letters and digits")
        texts = (secret_access_key,) if session_token is None else (secret_access_key, session_token)
        if not all(map(_TEXT.fullmatch, texts)):
            raise UsageError(
                f"the secret or session token of {access_key_id} is no use", "Give visible ASCII characters"
            )
        arn = f"arn:aws:iam::{_ACCOUNT}:user/{access_key_id}"
        _keep(
            self._added,
            Credentials(access_key_id, secret_access_key, session_token or "", None, arn, access_key_id, _ACCOUNT),
        )

    def find(self, access_key_id: str) -> Credentials | None:
        """Return the credentials of an access key id, expired ones too."""
        return self._added.get(access_key_id) or self._vended.get(access_key_id)


def _keep(known: dict[str, Credentials], credentials: Credentials) -> None:
    known[credentials.access_key_id] = credentials
    if len(known) > _MOST:
        del known[next(iter(known))]
