"""`hwsigner csr`: a certificate request, signed by the key itself."""

from __future__ import annotations

import json
import sys
import warnings
from functools import partial

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome
from hwsigner._config import settings
from hwsigner._config.flags import KEY, NAMES, OUTPUT, SYSTEM, Flag
from hwsigner._config.sharing import share_file
from hwsigner._identity.certificate_request import check_names, sign_certificate_request
from hwsigner._identity.session_tags import untaggable
from hwsigner._system.files import edit_file
from hwsigner._system.support import require_system_agent
from hwsigner.errors import HwsignerError, HwsignerWarning, UsageError
from hwsigner.key import open_key

HELP = "make a certificate request (PKCS #10) for a key"

_FLAGS = (*NAMES, Flag("out", "file for the request (default: stdout)", "FILE"), SYSTEM)
_STARTS = (b"-----BEGIN CERTIFICATE REQUEST-----", b"-----BEGIN NEW CERTIFICATE REQUEST-----")


def add_arguments(parser: Parser) -> None:
    """Add the key URI and the flags."""
    parser.add_argument("key", metavar="KEY-URI", help="key URI of the key, or a path")
    parser.add_flags(_FLAGS, OUTPUT, KEY)


def run(arguments: Arguments) -> int:
    """Print the request as PEM, or write it into a file; or print JSON."""
    if not arguments.settings.subject:
        raise UsageError("no subject was given", "Add --subject CN=bamboo-01")
    if arguments.system:
        require_system_agent()
    subject, dns, uris = arguments.settings.subject, arguments.settings.dns, arguments.settings.uri
    check_names(subject, dns_names=dns, uris=uris)
    settings.check_no_profile(arguments.key, f"For its key's URI, run hwsigner show --profile {arguments.key}")
    uri = settings.argument_uri(arguments.settings, arguments.key)
    with open_key(uri, settings.pin_source(arguments.settings, uri), allow_modules=True) as key:
        request = sign_certificate_request(key, subject, dns_names=dns, uris=uris)
    if arguments.system and "path" in uri.path:
        share_file(uri.file)
    for problem in untaggable(request):
        hint = "Choose another name, or leave it out of the Roles Anywhere profile's attribute mappings"
        warnings.warn(HwsignerWarning(problem, hint), stacklevel=2)
    about = {"file": arguments.out, "subject": subject, "dns": dns, "uris": uris, "request": request.pem.decode()}
    data = json.dumps(about, indent=2)
    if arguments.out:
        edit_file(arguments.out, partial(_replaced, arguments.out, request.pem))
        if arguments.json:
            print_outcome(f"{arguments.out} was written", data)
    else:
        sys.stdout.write(f"{data}\n" if arguments.json else request.pem.decode())
    return 0


def _replaced(path: str, pem: bytes, old: bytes) -> bytes:
    """Return the new content of a file that has one certificate request and nothing else, or is empty."""
    old = old.strip()
    if old and not (old.startswith(_STARTS) and old.count(b"-----BEGIN ") == 1):
        problem = f"{path} is there already, and is not a certificate request"
        raise HwsignerError(problem, "Name another file: it is not overwritten")
    return pem
