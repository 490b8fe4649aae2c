"""`hwsigner attest`: the statement about a key, or the answer to the challenge to it."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings

from hwsigner import attestation
from hwsigner._cli.documents import create_document, read_bytes, read_document
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config import settings
from hwsigner._config.flags import KEY, OUTPUT, Flag, switch
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.attestation.documents import Document
from hwsigner.errors import HwsignerWarning, UsageError
from hwsigner.key import find_certificates
from hwsigner.key.public_key import to_pem

HELP = "prove that a key is in hardware"

_FLAGS = (
    Flag("challenge", "challenge to answer (default: make a statement)", "FILE"),
    Flag("csr", "certificate request of this key, to go with the statement", "FILE"),
    Flag("vendor-certificates", "certificates up to the vendor's root that the hardware does not hold", "FILE"),
    Flag("pcrs", "TPM: add these PCRs to the answer, such as sha256:7,14", "PCRS"),
    switch("ek", "TPM: print the hash of the endorsement key, which identifies the TPM, and nothing else"),
    Flag("out", "file for the statement or answer (default: stdout)", "FILE"),
)


def add_arguments(parser: Parser) -> None:
    """Add the key URI and the flags."""
    parser.add_argument("key", metavar="KEY-URI", nargs="?", help="key URI of the key")
    parser.add_flags(_FLAGS, OUTPUT, KEY)


def run(arguments: Arguments) -> int:
    """Print the document as JSON, or write it into a file."""
    _check(arguments)
    uri = settings.argument_uri(arguments.settings, arguments.key or "tpm2:")
    pins = settings.pin_source(arguments.settings, uri)
    if arguments.ek:
        key = attestation.endorsement_key(uri, pins, allow_modules=True)
        found = hashlib.sha256(key).hexdigest()
        print(json.dumps({"endorsementKey": found, "publicKey": to_pem(key)}, indent=2) if arguments.json else found)
        return 0
    document = _answer(arguments, uri, pins) if arguments.challenge else _statement(arguments, uri, pins)
    if arguments.out:
        create_document(arguments.out, document)
        if arguments.json:
            print(json.dumps({"file": arguments.out}, indent=2))
    else:
        sys.stdout.write(document.to_json())
    return 0


def _check(arguments: Arguments) -> None:
    """Check that a key is given and that the flags fit together."""
    if not arguments.key and not arguments.ek:
        raise UsageError("no key was given", "Give the key URI of the key to attest")
    of_answers, of_statements = ("pcrs",), ("csr", "vendor-certificates")
    given = [flag.name for flag, value in arguments.given if value]
    for flag in of_statements if arguments.challenge else of_answers:
        if flag in given:
            step = "statement, so not with --challenge" if arguments.challenge else "answer, so with --challenge only"
            raise UsageError(f"--{flag} is for the {step}", f"Leave out --{flag}, or change the step")


def _statement(arguments: Arguments, uri: KeyURI, pins: PinSource) -> Document:
    csr = read_bytes(arguments.csr) if arguments.csr else b""
    path = arguments.settings.vendor_certificates
    certificates = [found.der for found in find_certificates(path, allow_modules=True)] if path else []
    statement = attestation.make_statement(uri, pins, csr=csr, certificates=certificates, allow_modules=True)
    if statement.format == "tpm2" and not statement.blobs("ekCertificates"):
        problem = "the TPM holds no certificate of its endorsement key, so the verifier must trust the key itself"
        hint = "It does with --ek-public-key. Or get the certificate from the vendor: --vendor-certificates adds it"
        warnings.warn(HwsignerWarning(problem, hint), stacklevel=2)
    return statement


def _answer(arguments: Arguments, uri: KeyURI, pins: PinSource) -> Document:
    challenge = read_document(arguments.challenge, "challenge")
    return attestation.answer_challenge(uri, challenge, pins, pcrs=arguments.pcrs or "", allow_modules=True)
