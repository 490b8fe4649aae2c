"""AWS credentials from keys that never leave the hardware.

`open_key` turns a key URI into a key that signs, `open_identity` joins it with its certificate chain, `create_session`
gets AWS credentials for it from IAM Roles Anywhere, and a `Provider` keeps them fresh. Nothing is loaded before it is
used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hwsigner._version import __version__

if TYPE_CHECKING:
    from hwsigner import auth as auth
    from hwsigner.aws.create_session import Service, SessionRequest, create_session, find_service
    from hwsigner.aws.credentials import Credentials
    from hwsigner.errors import HwsignerError, HwsignerWarning
    from hwsigner.identity import Identity, IdentitySource, open_identity
    from hwsigner.key import Key, find_certificates, open_key
    from hwsigner.pins import PinRequest, PinSource
    from hwsigner.refresh.background import BackgroundProvider
    from hwsigner.refresh.provider import Provider
    from hwsigner.uri import KeyURI

__all__ = [
    "BackgroundProvider",
    "Credentials",
    "HwsignerError",
    "HwsignerWarning",
    "Identity",
    "IdentitySource",
    "Key",
    "KeyURI",
    "PinRequest",
    "PinSource",
    "Provider",
    "Service",
    "SessionRequest",
    "__version__",
    "create_session",
    "find_certificates",
    "find_service",
    "open_identity",
    "open_key",
]

_HOMES = {
    "Credentials": "aws.credentials",
    "HwsignerError": "errors",
    "HwsignerWarning": "errors",
    "Identity": "identity",
    "IdentitySource": "identity",
    "Key": "key",
    "KeyURI": "uri",
    "PinRequest": "pins",
    "PinSource": "pins",
    "Provider": "refresh.provider",
    "BackgroundProvider": "refresh.background",
    "Service": "aws.create_session",
    "SessionRequest": "aws.create_session",
    "create_session": "aws.create_session",
    "find_certificates": "key",
    "find_service": "aws.create_session",
    "open_identity": "identity",
    "open_key": "key",
}


def __getattr__(name: str) -> object:
    if name == "auth":
        # A module, so that `hwsigner.auth.SigV4Auth` is one line; no public name, as it needs the extra `requests`.
        return importlib.import_module("hwsigner.auth")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
