"""The flags that choose an issuer of certificates."""

from __future__ import annotations

import argparse

from hwsigner.config.flags import Flag
from hwsigner.enrolment.issuers import Issuer, IssuerSettings, open_issuer
from hwsigner.errors import UsageError
from hwsigner.pins.sources import read_pin_source

ISSUER = (
    Flag("issuer", "issuer of the certificates; given by --issuer-command alone, too", "NAME"),
    Flag("issuer-url", "URL of the issuer", "URL"),
    Flag("issuer-command", "program that reads a certificate request and prints the certificates (PEM)", "COMMAND"),
    Flag("issuer-ca-file", "CAs of the issuer's TLS certificate (PEM); default: the system's", "FILE"),
    Flag("issuer-user", "user name at the issuer", "NAME"),
    Flag("issuer-secret", "where the password or token for the issuer is: file:PATH, env:NAME, credential:NAME", "SRC"),
    Flag("issuer-arn", "ARN of the private CA", "ARN"),
)


def issuer(arguments: argparse.Namespace) -> Issuer:
    """Return the issuer that the flags choose.

    Raises:
        UsageError: they choose none, or a setting is missing or invalid.
    """
    name = arguments.issuer or ("command" if arguments.issuer_command else None)
    if name is None:
        raise UsageError("no issuer given", "Add --issuer NAME or --issuer-command COMMAND")
    source = arguments.issuer_secret
    settings = IssuerSettings(
        url=arguments.issuer_url or "",
        command=arguments.issuer_command or "",
        ca_file=arguments.issuer_ca_file or "",
        user=arguments.issuer_user or "",
        secret=(lambda: read_pin_source(source, allow_commands=True)) if source else None,
        arn=arguments.issuer_arn or "",
    )
    return open_issuer(name, settings)
