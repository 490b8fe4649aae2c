"""The credentials that the emulator has vended."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from datetime import datetime

_KEY_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@dataclass(frozen=True)
class Vended:
    """One set of temporary credentials and whom it stands for."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expiration: datetime
    arn: str
    user_id: str
    account: str


# Of that many, the oldest are forgotten: a test that runs for days must not grow for ever.
_MOST_VENDED = 10_000


class Vault:
    """Makes credentials, and finds them again by their access key id."""

    def __init__(self) -> None:
        self._vended: dict[str, Vended] = {}

    def vend(self, *, expiration: datetime, arn: str, user_id: str, account: str) -> Vended:
        """Make credentials for an assumed role."""
        key_id = "ASIA" + "".join(secrets.choice(_KEY_ID_LETTERS) for _ in range(16))
        secret = base64.b64encode(secrets.token_bytes(30)).decode()
        token = base64.b64encode(secrets.token_bytes(300)).decode()
        vended = Vended(key_id, secret, token, expiration, arn, user_id, account)
        self._vended[key_id] = vended
        if len(self._vended) > _MOST_VENDED:
            del self._vended[next(iter(self._vended))]
        return vended

    def find(self, access_key_id: str) -> Vended | None:
        """Return the credentials of an access key id, expired ones too."""
        return self._vended.get(access_key_id)
