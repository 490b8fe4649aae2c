"""Certificates that are arguments of the commands for the AWS side."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime

from hwsigner.cli import options
from hwsigner.config.settings import Settings
from hwsigner.errors import AmbiguousCertificateError, CertificateError, CertificateWarning, HwsignerWarning
from hwsigner.identity.certificate import Certificate, latest_expiring, leaves, load, preflight
from hwsigner.identity.session_tags import untaggable
from hwsigner.key import find_certificates

CERTIFICATE = "certificate: a file, or a URI of a token or TPM"


def read_leaf(settings: Settings, text: str) -> Certificate:
    """Return the leaf of a file, token or TPM.

    Args:
        settings: the command's, which have the flags of `KEY`.
        text: a path or a key URI.

    Raises:
        UsageError: the URI is malformed.
        CertificateError: there is no readable certificate.
        AmbiguousCertificateError: there are several leaves, and they are not one and its renewals.
    """
    found = leaves(read_all(settings, text))
    subjects = dict.fromkeys(each.subject for each in found)
    if len(subjects) > 1:
        problem = f"{found[0].source} has {len(subjects)} leaf certificates: {', '.join(subjects)}"
        raise AmbiguousCertificateError(problem, "Give one that has a single leaf")
    return latest_expiring(found)


def read_all(settings: Settings, text: str) -> list[Certificate]:
    """Return all certificates of a file, token or TPM, as `read_leaf` finds them.

    Raises:
        UsageError, CertificateError: as `read_leaf`.
    """
    uri = options.key_uri(settings, text)
    return load(find_certificates(uri, options.pin_source(settings, uri), allow_modules=True))


def warn_of_refused(leaf: Certificate) -> None:
    """Warn of a leaf that the service would refuse, such as a CA's certificate or one that has expired."""
    try:
        preflight(leaf, datetime.now(UTC))
    except CertificateError as error:
        warnings.warn(CertificateWarning(error.message, "The service refuses such a certificate"), stacklevel=2)


def warn_of_untaggable(leaf: Certificate) -> None:
    """Warn of each name of a leaf that can't become a session tag."""
    for problem in untaggable(leaf):
        hint = "Reissue it without that name, or leave the name out of the profile's attribute mappings"
        warnings.warn(HwsignerWarning(problem, hint), stacklevel=2)
