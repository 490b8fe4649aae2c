"""The credentials that the emulator accepts, and the names of actions."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase

from hwsigner.errors import UsageError

_KEY_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_ACCESS_KEY_ID = re.compile(r"\w{1,128}", re.ASCII)
_TEXT = re.compile(r"[\x21-\x7e]+")
# Older credentials are dropped, so that an emulator that runs for days does not grow without limit.
_MAX_CREDENTIALS = 10_000
_ACTION = re.compile(r"[a-z0-9-]+:[A-Za-z*?]+|\*", re.ASCII)


@dataclass(frozen=True)
class CallerCredentials:
    """Credentials, and the caller that they authenticate."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)  # Must be sent with each request; empty if there is none.
    expiration: datetime | None
    arn: str
    user_id: str
    account: str
    source_identity: str = ""  # Of the session; empty if it has none.
    tags: Mapping[str, str] = field(default_factory=dict)  # Of the session.

    @property
    def is_of_role(self) -> bool:
        """Whether they are of a role's session, not of a user."""
        return self.arn.split(":")[2] == "sts"


class CredentialVault:
    """Issues and stores credentials, and finds them by their access key ID."""

    def __init__(self) -> None:
        self._issued: dict[str, CallerCredentials] = {}
        self._added: dict[str, CallerCredentials] = {}

    def issue(
        self, *, expiration: datetime, arn: str, user_id: str, source_identity: str, tags: Mapping[str, str]
    ) -> CallerCredentials:
        """Create credentials for an assumed role."""
        key_id = "ASIA" + "".join(secrets.choice(_KEY_ID_LETTERS) for _ in range(16))
        secret = base64.b64encode(secrets.token_bytes(30)).decode()
        token = base64.b64encode(secrets.token_bytes(300)).decode()
        account = arn.split(":")[4]
        issued = CallerCredentials(key_id, secret, token, expiration, arn, user_id, account, source_identity, tags)
        _store(self._issued, issued)
        return issued

    def add(self, access_key_id: str, secret_access_key: str, session_token: str | None, account: str) -> None:
        """Add credentials of an account's user that never expire. They replace added ones with the same access key ID.

        Raises:
            UsageError: the access key ID is not 1 to 128 letters and digits, the account is not twelve digits, or the
                secret or session token is empty or not visible ASCII.
        """
        if not _ACCESS_KEY_ID.fullmatch(access_key_id):
            raise UsageError("not an access key ID", "Give 1 to 128 letters and digits")
        if not re.fullmatch(r"[0-9]{12}", account):
            raise UsageError(f"{account!r} is not an account", "Give twelve digits")
        texts = (secret_access_key,) if session_token is None else (secret_access_key, session_token)
        if not all(map(_TEXT.fullmatch, texts)):
            problem = f"the secret or session token of {access_key_id} is empty or not visible ASCII"
            raise UsageError(problem, "Give visible ASCII characters")
        arn, token = f"arn:aws:iam::{account}:user/{access_key_id}", session_token or ""
        added = CallerCredentials(access_key_id, secret_access_key, token, None, arn, access_key_id, account)
        _store(self._added, added)

    def find(self, access_key_id: str) -> CallerCredentials | None:
        """Return the credentials with an access key ID, even if they expired."""
        return self._added.get(access_key_id) or self._issued.get(access_key_id)


def _store(known: dict[str, CallerCredentials], credentials: CallerCredentials) -> None:
    known[credentials.access_key_id] = credentials
    if len(known) > _MAX_CREDENTIALS:
        del known[next(iter(known))]


def check_action(pattern: str) -> str:
    """Return the name of an action, which may have wildcards, checked. A malformed one is a UsageError."""
    if not _ACTION.fullmatch(pattern):
        raise UsageError(f"{pattern!r} is not an action", "Write SERVICE:ACTION, such as iam:PassRole or iam:*")
    return pattern


def matches(action: str, pattern: str) -> bool:
    """Return whether an action is one of those that a name with wildcards means, in upper or lower case."""
    return fnmatchcase(action.lower(), pattern.lower())
