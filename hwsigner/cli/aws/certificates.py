"""Certificates that are arguments of the commands for the AWS side."""

from __future__ import annotations

import argparse

from hwsigner.cli import options
from hwsigner.identity.certificate import Certificate, leaves, load
from hwsigner.key import find_certificates

CERTIFICATE = "certificate: a file, or a URI of a token or TPM"


def read_leaf(arguments: argparse.Namespace, text: str) -> Certificate:
    """Return the leaf of a file, token or TPM.

    Args:
        arguments: the command's arguments, which have the flags of `KEY`.
        text: a path or a key URI.

    Raises:
        UsageError: the URI is malformed.
        CertificateError: there is no readable certificate.
    """
    uri = options.key_uri(arguments, text)
    return leaves(load(find_certificates(uri, options.pin_source(arguments, uri), allow_modules=True)))[0]
