"""AWS credentials from keys that never leave the hardware.

Public are the names in `__all__` and these modules; everything else is private and may change:

- `hwsigner.errors`: every error and warning;
- `hwsigner.boto3`: sessions of boto3 with the credentials of a profile;
- `hwsigner.botocore`: the same for a session of botocore;
- `hwsigner.auth`: signatures for `requests`, with credentials or with a certificate's key;
- `hwsigner.sigv4`: the stages of a signature, as pure functions;
- `hwsigner.sigv4.access_key`: the same with an access key;
- `hwsigner.attestation`: prove, or verify, that a key is in hardware;
- `hwsigner.emulator`: a local service for tests;
- `hwsigner.doctor`: what is wrong with profiles, keys and this machine;
- `hwsigner.findings`: what that returns;
- `hwsigner.trust_policy`: who may assume a role, by its trust policy;
- `hwsigner.backends`: `Backend` and `register`, for keys in places that hwsigner does not know;
- `hwsigner.key`: Protocols for such a backend: opening keys, and finding certificates;
- `hwsigner.key.listing`: the same for listing tokens;
- `hwsigner.key.management`: the same for making, describing, deleting and proving keys;
- `hwsigner.testing`: tests for such a backend;
- `hwsigner.enrolment.issuers`: issuers of certificates, for one that hwsigner does not know;
- `hwsigner.enrolment.testing`: tests for such an issuer.

Each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from hwsigner._version import __version__

if os.name == "nt":
    raise ImportError("hwsigner does not run on Windows: install it in WSL, the Windows Subsystem for Linux")

if TYPE_CHECKING:
    from hwsigner import auth as auth
    from hwsigner import errors as errors
    from hwsigner._aws.create_session import Service, SessionRequest, create_session, find_service
    from hwsigner._aws.credentials import Credentials
    from hwsigner._http.address import Endpoint
    from hwsigner._http.connection import Proxy
    from hwsigner._http.tls import TrustedCAs
    from hwsigner._http.transport import TransportOptions
    from hwsigner._identity import Identity, IdentitySource, open_identity
    from hwsigner._identity.certificate import Certificate, Chain
    from hwsigner._identity.certificate_request import CertificateRequest, sign_certificate_request
    from hwsigner._pins import AskPin, FoundPin, PinRequest, PinSource
    from hwsigner._refresh.outcome import Failure, Status
    from hwsigner._refresh.provider import BackgroundProvider, Provider
    from hwsigner._uri import KeyURI
    from hwsigner.errors import HwsignerError, HwsignerWarning
    from hwsigner.key import Algorithm, FoundCertificate, HashName, Key, find_certificates, open_key
    from hwsigner.key.listing import ListedObject, ListedToken, list_tokens
    from hwsigner.key.management import (
        Confirm,
        InstalledCertificate,
        KeyAlgorithm,
        KeyDescription,
        KeyRequest,
        delete_key,
        describe_key,
        generate_key,
        install_certificate,
    )

__all__ = ["HwsignerError", "HwsignerWarning", "__version__"]
# Keys and PINs.
__all__ += ["FoundCertificate", "Key", "KeyURI", "find_certificates", "list_tokens", "open_key"]
__all__ += ["Algorithm", "AskPin", "FoundPin", "HashName", "ListedObject", "ListedToken", "PinRequest", "PinSource"]
# A key's life.
__all__ += ["CertificateRequest", "delete_key", "describe_key", "generate_key", "install_certificate"]
__all__ += ["Confirm", "InstalledCertificate", "KeyAlgorithm", "KeyDescription", "KeyRequest"]
__all__ += ["sign_certificate_request"]
# Identities and sessions.
__all__ += ["Certificate", "Chain", "Identity", "IdentitySource", "open_identity"]
__all__ += ["Credentials", "Service", "SessionRequest", "create_session", "find_service"]
__all__ += ["Endpoint", "Proxy", "TransportOptions", "TrustedCAs"]
# Providers.
__all__ += ["BackgroundProvider", "Failure", "Provider", "Status"]

_MODULES = frozenset({"auth", "errors"})
_NAMES_BY_MODULE = {
    "_aws.create_session": "create_session find_service SessionRequest Service",
    "_aws.credentials": "Credentials",
    "_identity.certificate": "Certificate Chain",
    "_identity.certificate_request": "sign_certificate_request CertificateRequest",
    "errors": "HwsignerError HwsignerWarning",
    "_http.address": "Endpoint",
    "_http.connection": "Proxy",
    "_http.tls": "TrustedCAs",
    "_http.transport": "TransportOptions",
    "_identity": "open_identity Identity IdentitySource",
    "key": "open_key find_certificates Key FoundCertificate Algorithm HashName",
    "key.listing": "list_tokens ListedToken ListedObject",
    "key.management": "generate_key describe_key install_certificate delete_key KeyRequest KeyDescription KeyAlgorithm "
    "InstalledCertificate Confirm",
    "_pins": "PinSource PinRequest AskPin FoundPin",
    "_refresh.outcome": "Failure Status",
    "_refresh.provider": "Provider BackgroundProvider",
    "_uri": "KeyURI",
}
_HOMES = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
