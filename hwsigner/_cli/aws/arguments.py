"""Arguments that the commands for the AWS side share: flags, certificates, and the clients that the flags choose."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from datetime import UTC, datetime

from hwsigner._aws.apis import ServiceClients
from hwsigner._aws.region import check_region
from hwsigner._cli.parser import Arguments
from hwsigner._cli.process import report
from hwsigner._config.flags import Flag
from hwsigner._config.settings import Settings, argument_uri, pin_source
from hwsigner._control_plane.policies import DEFAULT_MATCH
from hwsigner._control_plane.resources import check_ca
from hwsigner._http.address import check_protected, read_url
from hwsigner._identity.certificate import Certificate, latest_expiring, leaves, load, preflight
from hwsigner._identity.session_tags import untaggable
from hwsigner.errors import AmbiguousCertificateError, CertificateError, CertificateWarning, HwsignerWarning, UsageError
from hwsigner.key import find_certificates

CERTIFICATE = "certificate: a file, or a URI of a token or TPM"
AWS = (
    Flag("region", "AWS region (default: the one of the AWS SDKs)", "REGION"),
    Flag("aws-profile", "profile of the AWS SDKs' files, with an administrator's credentials", "NAME"),
    Flag("endpoint", "URL of the AWS APIs, such as an emulator's (default: those that the SDKs choose)", "URL"),
)
CA_AND_ROLE = (
    Flag("ca", "certificates of the CA for the trust anchor", "FILE"),
    Flag("role", "name of the role", "NAME"),
)
BOUNDARY = Flag("permissions-boundary", "ARN of the policy that limits what the role may do", "ARN")
NAME = Flag("name", "name of the trust anchor and the Roles Anywhere profile (default: the role's)", "NAME")
MATCH = (
    Flag(
        *("match", "names to compare: CN,OU, CN=bamboo-*,OU=devops, Issuer/CN or SAN/DNS", "NAME[=VALUE],…"),
        default=DEFAULT_MATCH,
    ),
)


def service_clients(arguments: Arguments, *, region: str | None = None) -> ServiceClients:
    """Return the clients for a command's flags of `AWS`.

    A profile of config.toml does not count: its endpoint and region are those of CreateSession.
    """
    given = {flag.name: value for flag, value in arguments.given}
    endpoint = given.get("endpoint")
    if endpoint:
        check_protected("--endpoint", read_url("--endpoint", endpoint))
    if given.get("region"):
        check_region(given["region"])
    # boto3 itself reads only AWS_DEFAULT_REGION; the other SDKs, and people, set AWS_REGION.
    chosen = given.get("region") or region or os.environ.get("AWS_REGION")
    return ServiceClients(chosen, profile=given.get("aws-profile"), endpoint=endpoint, say=report, makes_once=True)


def read_leaf(values: Settings, text: str) -> Certificate:
    """Return the leaf of a file, token or TPM.

    Several are an AmbiguousCertificateError, unless they are one and its renewals. A leaf without a subject is an
    error.
    """
    found = leaves(read_all(values, text))
    subjects = dict.fromkeys(each.subject for each in found)
    if len(subjects) > 1:
        problem = f"{found[0].source} has {len(subjects)} leaf certificates: {', '.join(subjects)}"
        raise AmbiguousCertificateError(problem, "Give one that has a single leaf")
    leaf = latest_expiring(found)
    if not leaf.x509.subject:
        hint = "AWS does not support that yet: reissue it with a name such as CN=bamboo-01"
        raise CertificateError(f"{leaf.source} has an empty subject", hint)
    return leaf


def read_all(values: Settings, text: str) -> list[Certificate]:
    """Return all certificates of a file, token or TPM, as `read_leaf` finds them."""
    uri = argument_uri(values, text)
    return load(find_certificates(uri, pin_source(values, uri), allow_modules=True))


def warn_of_leaves(leaves: Iterable[Certificate]) -> None:
    """Warn of each leaf that the service would refuse, such as an expired one, and of names as `warn_of_untaggable`."""
    for leaf in leaves:
        try:
            preflight(leaf, datetime.now(UTC))
        except CertificateError as error:
            warnings.warn(CertificateWarning(error.message, "The service refuses such a certificate"), stacklevel=2)
        warn_of_untaggable(leaf)


def warn_of_untaggable(leaf: Certificate) -> None:
    """Warn of each name of a leaf that can't become a session tag."""
    for problem in untaggable(leaf):
        hint = "Reissue it without that name, or leave the name out of the Roles Anywhere profile's attribute mappings"
        warnings.warn(HwsignerWarning(problem, hint), stacklevel=2)


def read_ca(arguments: Arguments) -> tuple[Certificate, ...]:
    """Return the certificates of `--ca`, each once, and check that `--role` is given, too."""
    for flag, example in (("ca", "ca.pem"), ("role", "web")):
        if not getattr(arguments, flag):
            raise UsageError(f"--{flag} is missing", f"Give it, such as --{flag} {example}")
    found = tuple(dict.fromkeys(read_all(arguments.settings, arguments.ca)))
    check_ca(found, datetime.now(UTC))
    return found
