"""From a command's flags to what the library takes."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from hwsigner.cli.flags import IDENTITY
from hwsigner.cli.streams import tell
from hwsigner.cli.terminal import ask_pin
from hwsigner.errors import AmbiguousCertificateError, CertificateError, UnsafeKeyWarning, UsageError
from hwsigner.key import resolve
from hwsigner.pin import PinSource
from hwsigner.uri import KeyURI, check_no_pin

if TYPE_CHECKING:
    from hwsigner.identity import IdentitySource
    from hwsigner.session import Service, SessionRequest

_SESSION_NAME = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
_MAX_INSTANCE_PROPERTIES = 50
_PASSWORD_FLAGS = {"file": "pkcs8_password", "tpm2": "tpm_key_password"}


def key_uri(arguments: argparse.Namespace, text: str) -> KeyURI:
    """Return a key URI as the flags complete it: `--pkcs11-lib` is a token's module.

    Raises:
        UsageError: it is malformed.
    """
    uri = KeyURI.parse(text)
    if uri.scheme == "pkcs11" and arguments.pkcs11_lib:
        check_no_pin(os.fsencode(arguments.pkcs11_lib))
        uri = uri.with_query("module-path", arguments.pkcs11_lib)
    return uri


def pin_source(arguments: argparse.Namespace, uri: KeyURI) -> PinSource:
    """Return the places for the PIN of a key. A password flag is for keys of its own kind, and for no token."""
    scheme = resolve(uri).scheme
    pin = getattr(arguments, _PASSWORD_FLAGS[scheme]) if scheme in _PASSWORD_FLAGS else None
    if scheme == "tpm2" and arguments.no_tpm_key_password:
        pin = ""
    return PinSource(pin, ask_pin, reuse=arguments.reuse_pin, allow_final_try=arguments.allow_final_pin_try)


def warn_of_secrets(arguments: argparse.Namespace) -> None:
    """Warn of each PIN on the command line, or in the file of a profile that others can read."""
    given = {flag.name for flag, _ in arguments.given}
    for flag in IDENTITY:
        value = getattr(arguments, flag.attribute, None)
        if isinstance(value, str) and (flag.secret or "pin-value=" in value):
            name = f"--{flag.name}" if flag.secret else f"pin-value in --{flag.name}"
            place = "on the command line" if flag.name in given else f"in {arguments.exposed}"
            if flag.name in given or arguments.exposed:
                hint = "pin-source=file: in the key URI is safer"
                warnings.warn(UnsafeKeyWarning(f"{name} {place} can be seen by other users", hint), stacklevel=2)


def identity_source(arguments: argparse.Namespace, *, check: bool = True) -> IdentitySource:
    """Return where the identity comes from; with `check` false, its leaf is not looked over.

    Raises:
        UsageError: no certificate is named.
        CertificateError: no certificate is like `--cert-selector`.
        AmbiguousCertificateError: several are.
    """
    from hwsigner.identity import IdentitySource

    certificate, private_key = _names(arguments)
    return IdentitySource(
        certificate=certificate,
        private_key=private_key,
        intermediates=arguments.intermediates and KeyURI.parse(arguments.intermediates),
        pin=pin_source(arguments, private_key or certificate),
        check=check and not arguments.no_preflight,
        latest=arguments.use_latest_expiring_certificate,
    )


def _names(arguments: argparse.Namespace) -> tuple[KeyURI, KeyURI | None]:
    if arguments.cert_selector is not None:
        return _selected(arguments), None
    if not arguments.certificate:
        raise UsageError("no certificate is named", "Give --certificate, or --cert-selector for one on a token")
    certificate = key_uri(arguments, arguments.certificate)
    return certificate, key_uri(arguments, arguments.private_key) if arguments.private_key else None


def _selected(arguments: argparse.Namespace) -> KeyURI:
    from hwsigner.certificate import latest_expiring
    from hwsigner.selector import parse_selector, select

    selector = parse_selector(arguments.cert_selector)
    uri = key_uri(arguments, "pkcs11:")
    found = select(selector, uri, pin_source(arguments, uri))
    if not found:
        raise CertificateError("no certificate on any token is like --cert-selector", "See read-certificate-data")
    if arguments.use_latest_expiring_certificate:
        found = [latest_expiring(found)]
    if len(found) > 1:
        raise AmbiguousCertificateError(
            f"{len(found)} certificates are like --cert-selector: {', '.join(c.source for c in found)}",
            "Select by x509Serial too, or let --use-latest-expiring-certificate pick",
        )
    return key_uri(arguments, found[0].source)


def session_request(arguments: argparse.Namespace) -> SessionRequest:
    """Return what to ask the service for; `service` checks the ARNs.

    Raises:
        UsageError: a session name or the instance properties can't be meant.
    """
    from hwsigner.session import SessionRequest

    name = arguments.role_session_name
    if name is not None and not _SESSION_NAME.fullmatch(name):
        raise UsageError(
            f"--role-session-name is {name[:100]!r}", "It is 2 to 64 characters of letters, digits and _+=,.@-"
        )
    properties = dict(arguments.instance_property)
    if len(properties) > _MAX_INSTANCE_PROPERTIES:
        raise UsageError(f"--instance-property is given {len(properties)} times", "The service takes 50 at most")
    return SessionRequest(
        trust_anchor_arn=arguments.trust_anchor_arn,
        profile_arn=arguments.profile_arn,
        role_arn=arguments.role_arn,
        duration=arguments.session_duration,
        session_name=name,
        instance_properties=properties,
    )


def service(arguments: argparse.Namespace) -> Service:
    """Return whom to ask, from the flags and the environment.

    Raises:
        UsageError: an ARN, the region, the endpoint, or a variable of the environment can't be meant.
    """
    from hwsigner.arn import check_arns
    from hwsigner.session import find_service

    region = check_arns(
        arguments.trust_anchor_arn, arguments.profile_arn, role=arguments.role_arn, region=arguments.region
    )
    found = find_service(region, endpoint=arguments.endpoint, verify=not arguments.no_verify_ssl)
    limits = {"connect_timeout": arguments.connect_timeout, "read_timeout": arguments.read_timeout}
    return replace(
        found,
        transport=replace(found.transport, **limits),
        timeout=arguments.timeout,
        trace=_trace if arguments.debug else None,
    )


def _trace(text: str) -> None:
    tell("\n".join(f"debug: {line}" for line in text.splitlines()))
