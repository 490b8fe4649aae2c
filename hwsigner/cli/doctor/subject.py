"""What is checked: a profile, with what could be read of its settings and certificates. No PIN is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hwsigner.cli.doctor.findings import Finding, finding, of_error, warnings_into
from hwsigner.config import settings
from hwsigner.config.flags import session_duration
from hwsigner.errors import CertificateError, SigningKeyError, UsageError
from hwsigner.key import find_certificates
from hwsigner.pins import PinSource
from hwsigner.uri import KeyURI

if TYPE_CHECKING:
    from hwsigner.config.profiles import Profile
    from hwsigner.identity.certificate import Certificate

_DURATION = "session-duration"


@dataclass(frozen=True)
class Subject:
    """A profile of config.toml.

    Attributes:
        profile: the profile.
        environ: the environment.
        now: the time, with its zone.
        values: its values by attribute; empty if it is invalid.
        key: the key URI; None if it names none.
        certificates: those at the places that it names, in their order.
        leaf: the one to send, or None.
    """

    profile: Profile
    environ: Mapping[str, str]
    now: datetime
    values: Mapping[str, Any] = field(default_factory=dict)
    key: KeyURI | None = None
    certificates: Sequence[Certificate] = ()
    leaf: Certificate | None = None


def read(profile: Profile, environ: Mapping[str, str], now: datetime) -> tuple[Subject, list[Finding]]:
    """Return the subject, and what is wrong if a part of it can't be read."""
    subject = Subject(profile, environ, now)
    findings: list[Finding] = []
    with warnings_into(findings):
        try:
            subject = _with_values(subject, findings)
            subject = _with_certificates(subject)
        except UsageError as error:
            findings.append(of_error("profile-invalid", error))
        except (CertificateError, SigningKeyError) as error:
            findings.append(of_error("certificate-unreadable", error))
    return subject, findings


def _with_values(subject: Subject, findings: list[Finding]) -> Subject:
    raw = dict(subject.profile.values)
    duration = str(raw.pop(_DURATION, 3600))
    try:
        session_duration(duration)
        raw[_DURATION] = duration
    except ValueError as error:
        findings.append(finding("duration-invalid", f"{_DURATION} is {duration[:100]!r}: {error}"))
    values = settings.values_of(replace(subject.profile, values=raw))
    return replace(subject, values=values)


def _with_certificates(subject: Subject) -> Subject:
    from hwsigner.identity.certificate import latest_expiring, leaves, load

    values, no_pin = subject.values, PinSource().without_pin()
    if values["cert_selector"] is not None:
        found = _selected(values, no_pin)
        subject = replace(subject, key=KeyURI.of(found[0].source))
    elif values["certificate"]:
        certificate = settings.key_uri(values, values["certificate"])
        key = settings.key_uri(values, values["private_key"]) if values["private_key"] else certificate
        subject = replace(subject, key=key.resolved())
        found = load(find_certificates(certificate, no_pin, allow_modules=True))
    else:
        raise CertificateError("the profile names no certificate")
    leaf = latest_expiring(leaves(found))
    if values["intermediates"]:
        found = [*found, *load(find_certificates(values["intermediates"], no_pin, allow_modules=True))]
    return replace(subject, certificates=found, leaf=leaf)


def _selected(values: settings.Values, no_pin: PinSource) -> list[Certificate]:
    from hwsigner.config.selector import parse_selector, select

    found = select(parse_selector(values["cert_selector"]), settings.key_uri(values, "pkcs11:"), no_pin)
    if not found:
        raise CertificateError("cert-selector matches no certificate on any token")
    return found
