"""The issuer that flags and profiles choose."""

from __future__ import annotations

from hwsigner.config.settings import Settings
from hwsigner.enrolment.issuers import Issuer, IssuerSettings, open_issuer
from hwsigner.errors import PinError, UsageError
from hwsigner.key import find_certificates
from hwsigner.key.management import KeyAccess
from hwsigner.pins.sources import read_pin_source


def issuer(values: Settings, key: KeyAccess | None = None) -> Issuer:
    """Return the issuer that the flags of `ISSUER` choose. Nothing is sent, and no secret is read yet.

    Args:
        values: the settings.
        key: the key of the requests, for an issuer that wants more of it than their signatures.

    Raises:
        UsageError: they choose none, or a setting is missing or invalid.
        CertificateError: the vendor's certificates can't be read.
    """
    name = values.issuer or ("command" if values.issuer_command else None)
    if name is None:
        raise UsageError("no issuer was given", "Add --issuer NAME, or --issuer-command PROGRAM")
    source = values.issuer_secret
    settings = IssuerSettings(
        url=values.issuer_url or "",
        command=values.issuer_command or "",
        ca_file=values.issuer_ca_file or "",
        user=values.issuer_user or "",
        secret=(lambda: _secret(source)) if source else None,
        arn=values.issuer_arn or "",
        certificate=(values.certificate or "") if values.issuer_certificate else "",
        timeout=values.timeout,
        key=key,
        vendor_certificates=_certificates(values.vendor_certificates),
    )
    return open_issuer(name, settings)


def _secret(source: str) -> str:
    try:
        return read_pin_source(source, allow_commands=True)
    except PinError as error:
        # It is read like a PIN, and the error speaks of one.
        raise PinError(f"the secret of --issuer-secret can't be read: {error.message}", error.hint) from error


def _certificates(path: str | None) -> tuple[bytes, ...]:
    return tuple(found.der for found in find_certificates(path, allow_modules=True)) if path else ()
