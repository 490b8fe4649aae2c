"""A credential provider for botocore, and so for boto3: `register(session, "web")`.

The credentials are those of a profile of config.toml, from a running agent or a provider of this process, which all
sessions share. botocore asks for new ones while the last still have 15 minutes.
"""

from __future__ import annotations

from functools import partial

try:
    from botocore.credentials import CredentialProvider, RefreshableCredentials
    from botocore.exceptions import CredentialRetrievalError
    from botocore.session import Session
except ImportError as error:
    raise ImportError("hwsigner.botocore needs botocore; install hwsigner with its extra aws") from error

from hwsigner._agent.agent_or_own import AgentOrOwn
from hwsigner._agent.current import CurrentProvider
from hwsigner._system.notices import observed_by, show_unless_notified
from hwsigner.errors import HwsignerError, HwsignerWarning, check_text

__all__ = ["CredentialsError", "register"]

_METHOD = "hwsigner"


class CredentialsError(CredentialRetrievalError):  # type: ignore[misc]  # botocore has no types.
    """There are no credentials. `__cause__` is hwsigner's error, whose exit status and hint say more."""


def register(session: Session, profile: str) -> None:
    """Make a botocore session use the credentials of a profile of config.toml.

    They come before a `credential_process` and whatever botocore tries after it. Environment variables, an assumed role
    and a static section of the SDKs' files still come first, as they do for every botocore session. Nothing is read or
    opened before its first client is made.

    Args:
        session: the session, before its first client is made. For boto3, pass the session on:
            `boto3.Session(botocore_session=session)`, or `boto3.setup_default_session(botocore_session=session)`.
        profile: the name of the profile of config.toml.
    """
    _insert(session, profile, before="custom-process")


def _insert(session: Session, profile: str, *, before: str) -> None:
    """Put a profile's credentials before one of botocore's own providers, which is named as botocore names it."""
    session.get_component("credential_provider").insert_before(before, _ProfileProvider(profile))


class _ProfileProvider(CredentialProvider):  # type: ignore[misc]  # botocore has no types.
    """A profile's credentials, as botocore loads them."""

    METHOD = _METHOD
    CANONICAL_NAME = _METHOD

    def __init__(self, profile: str) -> None:
        super().__init__()
        check_text(profile, "the profile's name")
        self._profile = profile

    def load(self) -> RefreshableCredentials:
        refresh = partial(_credentials, self._profile)
        return RefreshableCredentials.create_from_metadata(refresh(), refresh, _METHOD)


# By profile. A dict's setdefault is atomic, and unlike a lock it can't be left locked in a child process.
_sources: dict[str, AgentOrOwn[CurrentProvider]] = {}


def _credentials(profile: str) -> dict[str, str]:
    """Return live credentials of a profile in botocore's form. All sessions of this process share them."""
    source = _sources.setdefault(profile, AgentOrOwn(profile, partial(CurrentProvider, profile)))
    try:
        with observed_by(show_unless_notified):
            found = source()
    except (HwsignerError, HwsignerWarning) as error:
        raise CredentialsError(provider=_METHOD, error_msg=str(error)) from error
    return {
        "access_key": found.access_key_id,
        "secret_key": found.secret_access_key,
        "token": found.session_token,
        "expiry_time": found.expiration.isoformat(),
    }
