"""What is checked: a profile, with what could be read of its settings and certificates. No PIN is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from hwsigner.cli.doctor.warned import warnings_into
from hwsigner.cli.options import certificates_at
from hwsigner.config import settings
from hwsigner.config.flags import IN_PROFILES, session_duration
from hwsigner.config.settings import Settings
from hwsigner.errors import CertificateError, PinError, PinRequiredError, SigningKeyError, UsageError, suggestion
from hwsigner.findings import Finding, local
from hwsigner.http import defaults
from hwsigner.pins import PinRequest, PinSource
from hwsigner.system.files import check_no_pipe
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
        settings: its settings; the defaults if it is invalid.
        key: the key URI; None if it names none.
        certificates: those at the places that it names, in their order.
        leaf: the one to send, or None.
    """

    profile: Profile
    environ: Mapping[str, str]
    now: datetime
    settings: Settings = field(default_factory=Settings)
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
            subject = _with_key(subject)
            subject = _with_certificates(subject)
        except UsageError as error:
            findings.append(local.PROFILE_INVALID.found_by(error))
        except PinError:
            pass  # What is behind a PIN is left to --online.
        except (CertificateError, SigningKeyError) as error:
            findings.append(local.CERTIFICATE_UNREADABLE.found_by(error))
    return subject, findings


def _with_values(subject: Subject, findings: list[Finding]) -> Subject:
    raw = dict(subject.profile.values)
    for key in sorted(raw.keys() - IN_PROFILES.keys()):
        del raw[key]
        hint = suggestion(key, IN_PROFILES, f"Run hwsigner profile edit NAME --unset {key}")
        findings.append(
            local.PROFILE_INVALID.found(f"{subject.profile.file} has the key {key!r}, which is not a flag", hint)
        )
    duration = str(raw.pop(_DURATION, defaults.SESSION_DURATION))
    try:
        session_duration(duration)
        raw[_DURATION] = duration
    except ValueError as error:
        findings.append(local.DURATION_INVALID.found(f"{_DURATION} is {duration[:100]!r}: {error}"))
    values = settings.of_profile(replace(subject.profile, values=raw))
    return replace(subject, settings=values)


def _with_key(subject: Subject) -> Subject:
    """Add the key. A selector finds the certificates too."""
    values = subject.settings
    if values.cert_selector is not None:
        found = _selected(values, values.cert_selector)
        return replace(subject, key=KeyURI.of(found[0].source), certificates=found)
    place = values.private_key or values.certificate
    if not place:
        name = subject.profile.name
        hint = f"Run hwsigner install-certificate CERTIFICATE KEY-URI --profile {name}, or hwsigner enroll {name}"
        raise CertificateError("the profile names no key and no certificate", hint)
    key = settings.key_uri(values, place)
    return replace(subject, key=key.resolved().without_pin())


def _with_certificates(subject: Subject) -> Subject:
    from hwsigner.identity.certificate import latest_expiring, leaves

    values, found = subject.settings, subject.certificates
    if not found:
        if not values.certificate:
            raise CertificateError("the profile names no certificate", f"Run hwsigner enroll {subject.profile.name}")
        uri = settings.key_uri(values, values.certificate).without_pin()
        found = certificates_at(uri, pipes=False)
    leaf = latest_expiring(leaves(found))
    if values.intermediates:
        found = [*found, *certificates_at(values.intermediates, pipes=False)]
    return replace(subject, certificates=found, leaf=leaf)


def no_pins() -> PinSource:
    """Return a source that refuses to give a PIN, and reads none."""

    def refuse(request: PinRequest) -> str:
        raise PinRequiredError(f"no PIN is used for {request.subject}", "Add --online")

    return PinSource(ask=refuse).without_pin()


def _selected(values: Settings, text: str) -> list[Certificate]:
    from hwsigner.identity.selector import parse_selector, select

    if text.startswith("file://"):
        check_no_pipe(text.removeprefix("file://"), CertificateError)
    found = select(parse_selector(text), settings.key_uri(values, "pkcs11:"), no_pins())
    if not found:
        raise CertificateError("cert-selector matches no certificate on any token")
    return found
