"""Verify that a key of a PKCS #11 token is at hand. What its token says of it stays a claim: no token proves it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hwsigner.attestation.chain import UNREADABLE, Trust, is_slow
from hwsigner.attestation.documents import Document, Value
from hwsigner.attestation.findings import PROOF_OF_POSSESSION, Findings, verify_proof_of_possession
from hwsigner.attestation.weaknesses import is_roca
from hwsigner.errors import AttestationError, printable

_CLAIMS = {
    "sensitive": ("The token does not show the key (CKA_SENSITIVE)", "The token shows the key (CKA_SENSITIVE)"),
    "neverExtractable": (
        "The key could never be taken out of the token (CKA_NEVER_EXTRACTABLE)",
        "The key can be taken out of the token, or once could (CKA_NEVER_EXTRACTABLE)",
    ),
    "local": ("The token made the key itself (CKA_LOCAL)", "The token did not make the key itself (CKA_LOCAL)"),
}
_UNPROVEN = "Nothing proves that the key is in hardware: the machine that made the statement may claim what it likes"
_ROCA = "The key can be computed from its public key (ROCA, CVE-2017-15361): do not use it"


def examine(statement: Document, trust: Trust) -> Findings:
    """Return what a statement claims.

    A member with a value that hwsigner does not write is an AttestationError.
    """
    claims = [f"The key is in {printable(statement.text('token'))}"]
    for name, (yes, no) in _CLAIMS.items():
        said = statement.text(name)
        if said not in ("", "yes", "no"):
            raise AttestationError(f"the statement has the {name} {said[:20]!r}, not 'yes' or 'no'", "Make it again")
        claims += [{"yes": yes, "no": no}[said]] if said else []
    given = statement.blob("keyPublic")
    if is_slow(given):
        raise AttestationError(
            "the statement's public key can't be read, or is of an unusual kind or size", "Make it again"
        )
    try:
        warnings = (_UNPROVEN, _ROCA) if is_roca(given) else (_UNPROVEN,)
    except UNREADABLE as error:
        raise AttestationError("the statement's public key can't be read", "Make it again") from error
    return Findings(given, claimed=tuple(claims), warnings=warnings)


def challenge(statement: Document) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return nothing for the challenge and its state: the nonce is enough."""
    return {}, {}


def verify(statement: Document, state: Document, answer: Document, trust: Trust) -> Findings:
    """Return what an answer proves: that the key is at hand.

    If the key did not sign the challenge, that is an AttestationError.
    """
    found = examine(statement, trust)
    verify_proof_of_possession(found.public_key, state, answer)
    return replace(found, proven=(PROOF_OF_POSSESSION,))


if TYPE_CHECKING:
    from hwsigner.attestation import _VerifiesStatements, pkcs11

    _: _VerifiesStatements = pkcs11
