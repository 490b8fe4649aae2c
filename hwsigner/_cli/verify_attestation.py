"""`hwsigner verify-attestation`: challenge a statement about a key, and verify the answer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace

from hwsigner import attestation
from hwsigner._cli.documents import create_document, read_document, read_endorsement_key, read_trust
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config.flags import OUTPUT, Flag, switch
from hwsigner._system.files import open_trusted
from hwsigner.attestation import Trust
from hwsigner.attestation.documents import MAX_BYTES, Document
from hwsigner.attestation.findings import Findings
from hwsigner.errors import AttestationError, KeyMismatchError, UsageError, printable
from hwsigner.key.public_key import kind_of, to_pem

HELP = "verify on another machine that a key is in hardware"

_FLAGS = (
    Flag("roots", "folder with the vendors' root and intermediate certificates", "DIR"),
    Flag("ek-public-key", "TPM: endorsement key that you certify in the vendor's place; - for stdin", "FILE"),
    Flag("challenge", "new file for the challenge to the statement", "FILE"),
    Flag("answer", "answer to verify", "FILE"),
    Flag("state", "what the verifier keeps from --challenge until --answer; secret", "FILE"),
    switch("accept-claims", "accept an answer even if it does not prove that the key is only in hardware"),
    *OUTPUT,
)


def add_arguments(parser: Parser) -> None:
    """Add the statement and the flags."""
    parser.add_argument("statement", metavar="STATEMENT", help="file with the statement")
    parser.add_flags(_FLAGS)


def run(arguments: Arguments) -> int:
    """Print what is proven and what is claimed, then the public key."""
    if not (arguments.roots or arguments.ek_public_key):
        raise UsageError(
            "no roots were given", "Add --roots with the folder of the vendors' certificates, or --ek-public-key"
        )
    if arguments.challenge and arguments.answer:
        raise UsageError("--challenge and --answer are two steps", "Give one of them")
    if bool(arguments.state) != bool(arguments.challenge or arguments.answer):
        raise UsageError("--challenge and --answer need --state, and --state needs one of them", "Add the missing one")
    statement = read_document(arguments.statement, "statement")
    trust = _trust(arguments, statement)
    if arguments.answer:
        state, answer = _read_state(arguments.state), read_document(arguments.answer, "answer")
        findings = attestation.verify_answer(statement, state, answer, trust)
    else:
        findings = attestation.examine(statement, trust)
    _print(findings, as_json=arguments.json)
    if findings.matches_csr is False:
        raise KeyMismatchError("the certificate request is not signed by this key", "Do not certify it")
    if arguments.answer and not (findings.in_hardware or arguments.accept_claims):
        problem = "it is not proven that the key is only in hardware"
        raise AttestationError(problem, "Read the warnings; --accept-claims accepts it")
    if arguments.challenge:
        _write(*attestation.challenge(statement, trust), arguments)
    return 0


def _trust(arguments: Arguments, statement: Document) -> Trust:
    trust = read_trust(arguments.roots) if arguments.roots else Trust(())
    if not arguments.ek_public_key:
        return trust
    wanted, claimed = read_endorsement_key(arguments.ek_public_key), attestation.claimed_endorsement_key(statement)
    if not claimed:
        raise AttestationError("the statement is not of a TPM", "Leave out --ek-public-key, and add --roots")
    if claimed != wanted:
        problem = f"the statement claims the endorsement key {claimed}, and not {wanted}"
        raise AttestationError(problem, "Give the endorsement key of the machine that made the statement")
    return replace(trust, endorsement_keys=frozenset({wanted}))


def _read_state(path: str) -> Document:
    """Read the state. Another user who can write it could answer any challenge."""
    try:
        with open_trusted(path, UsageError) as file:
            return attestation.read(file.read(MAX_BYTES + 1), "state")
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}", "Check the path") from error


def _write(challenge: Document, state: Document, arguments: Arguments) -> None:
    """Write both files or neither."""
    create_document(arguments.state, state)
    try:
        create_document(arguments.challenge, challenge)
    except BaseException:
        os.unlink(arguments.state)
        raise


def _print(findings: Findings, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_data(findings), indent=2))
        return
    for name, text in _rows(findings):
        print(printable(f"{name:<8}  {text}"))
    print(to_pem(findings.public_key), end="")


def _data(findings: Findings) -> dict[str, object]:
    return {
        "publicKey": to_pem(findings.public_key),
        "algorithm": kind_of(findings.public_key),
        "chip": findings.chip,
        "proven": list(findings.proven),
        "inHardware": findings.in_hardware,
        "claimed": list(findings.claimed),
        "warnings": list(findings.warnings),
        "matchesCsr": findings.matches_csr,
    }


def _rows(findings: Findings) -> Iterator[tuple[str, str]]:
    yield from (("proven", text) for text in findings.proven)
    yield from (("claimed", text) for text in findings.claimed)
    yield from (("warning", text) for text in findings.warnings)
    if not findings.proven:
        yield "note", "A statement proves nothing by itself: only the answer to a challenge does"
    if findings.matches_csr is not None:
        signed = "is" if findings.matches_csr else "is not"
        yield "request", f"The certificate request {signed} signed by this key"
    if findings.chip:
        yield "chip", findings.chip
    yield "key", kind_of(findings.public_key) or "of an unknown kind"
