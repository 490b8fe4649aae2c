"""The flags that say what a set-up should be, for the commands that make one or print it as a template."""

from __future__ import annotations

from datetime import UTC, datetime

from hwsigner.cli.aws.certificates import read_all
from hwsigner.cli.parser import Arguments
from hwsigner.config.flags import Flag
from hwsigner.control_plane.wanted import check_ca
from hwsigner.errors import UsageError
from hwsigner.identity.certificate import Certificate

CA_AND_ROLE = (
    Flag("ca", "certificates of the CA for the trust anchor", "FILE"),
    Flag("role", "name of the role", "NAME"),
)
NAME = Flag("name", "name of the trust anchor and the profile (default: the role's)", "NAME")


def read_ca(arguments: Arguments) -> tuple[Certificate, ...]:
    """Return the certificates of `--ca`, each once, and check that `--role` is given, too.

    Raises:
        UsageError: a flag is missing.
        CertificateError: as `check_ca`, or there is no readable certificate.
    """
    for flag, example in (("ca", "ca.pem"), ("role", "web")):
        if not getattr(arguments, flag):
            raise UsageError(f"--{flag} is missing", f"Give it, such as --{flag} {example}")
    found = tuple(dict.fromkeys(read_all(arguments.settings, arguments.ca)))
    check_ca(found, datetime.now(UTC))
    return found
