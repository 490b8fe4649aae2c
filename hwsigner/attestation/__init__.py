"""Prove to another machine that a key was made in hardware and can't leave it.

The machine with the key makes a *statement*, the verifier answers with a *challenge*, and the machine with an *answer*.
Only the answer proves anything: a statement can be replayed, and made of parts of several chips.
`docs/how-to/attestation.md` has the documents byte by byte.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from hwsigner._pins import AskPin, PinSource
from hwsigner._uri import KeyURI
from hwsigner.attestation.chain import Trust, VendorCertificate, root_files
from hwsigner.attestation.documents import NONCE_BYTES, Document, Kind, Value, binding, new, read
from hwsigner.attestation.findings import Findings
from hwsigner.attestation.request import is_signed_by, read_request
from hwsigner.attestation.structures import read_public
from hwsigner.attestation.weaknesses import is_short
from hwsigner.errors import AttestationError, UsageError
from hwsigner.key import capability, find_certificates
from hwsigner.key.management import ProvesKeys, ShowsEndorsementKey

__all__ = ["answer_challenge", "challenge", "endorsement_key", "examine", "make_statement", "read", "read_trust"]
__all__ += ["Document", "Findings", "Kind", "Trust", "Value", "VendorCertificate", "claimed_endorsement_key"]
__all__ += ["verify_answer"]

# By format, a module that is a _VerifiesStatements.
_VERIFIERS = {name: f"hwsigner.attestation.{name}" for name in ("tpm2", "piv", "pkcs11")}
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class _VerifiesStatements(Protocol):
    """The module that verifies the documents of a format."""

    def examine(self, statement: Document, trust: Trust) -> Findings:
        """Return what a statement claims; see `examine`."""
        ...

    def challenge(self, statement: Document) -> tuple[dict[str, Value], dict[str, Value]]:
        """Return what a challenge has in addition to its nonce, and what the verifier keeps for itself."""
        ...

    def verify(self, statement: Document, state: Document, answer: Document, trust: Trust) -> Findings:
        """Return what an answer proves; see `verify_answer`."""
        ...


def make_statement(
    uri: str | KeyURI,
    pin: str | AskPin | PinSource | None = None,
    *,
    csr: bytes = b"",
    certificates: Sequence[bytes] = (),
    allow_modules: bool = False,
) -> Document:
    """Make the statement about a key.

    Args:
        uri: the key URI.
        pin: where PINs come from, as for `open_key`.
        csr: the key's PKCS #10 request in PEM or DER, to be verified with it.
        certificates: the DER of certificates that the chip does not hold: of its endorsement key, and those above it.
        allow_modules: whether the URI may name any library to load, as for `open_key`.

    Raises:
        UsageError: the URI is malformed, keys of this kind can't be attested, or the request can't be read.
        SigningKeyError: the key can't be found, or the hardware refused.
        PinError: a PIN is missing, wrong or locked.
    """
    parsed = KeyURI.of(uri).resolved()
    request = read_request(csr) if csr else b""
    make = _proving(ProvesKeys.make_statement, tuple, parsed, allow_modules=allow_modules)
    hardware, values = make(parsed, PinSource.of(pin), certificates=tuple(certificates))
    return _made(parsed)("statement", hardware, {**values, "certificateRequest": request})


def answer_challenge(
    uri: str | KeyURI,
    challenge: Document,
    pin: str | AskPin | PinSource | None = None,
    *,
    pcrs: str = "",
    allow_modules: bool = False,
) -> Document:
    """Answer a challenge to a key's statement.

    Args:
        uri: the key URI.
        challenge: the challenge.
        pin: where PINs come from, as for `open_key`.
        pcrs: TPM: the PCRs to add a quote of, such as `sha256:7`; by default those that the challenge asks for.
        allow_modules: whether the URI may name any library to load, as for `open_key`.

    Raises:
        UsageError: the URI is malformed, or the challenge or `pcrs` are not for keys of this kind.
        AttestationError: the challenge is for other hardware.
        SigningKeyError: the key can't be found, or the hardware refused.
        PinError: a PIN is missing, wrong or locked.
    """
    parsed = KeyURI.of(uri).resolved()
    answer = _proving(ProvesKeys.answer_challenge, Mapping, parsed, allow_modules=allow_modules)
    if challenge.format not in _proving(ProvesKeys.formats, Sequence, parsed, allow_modules=allow_modules)():
        raise UsageError(f"the challenge is for a {challenge.format} key, not for {parsed.name}", "Name another key")
    given = {name: value for name, value in challenge.values.items() if isinstance(value, bytes)}
    given["message"] = binding(challenge)
    values = answer(parsed, PinSource.of(pin), given, pcrs=pcrs or challenge.text("pcrs"))
    return _made(parsed)("answer", challenge.format, {**values, "nonce": challenge.blob("nonce")})


def endorsement_key(
    uri: str | KeyURI = "tpm2:", pin: str | AskPin | PinSource | None = None, *, allow_modules: bool = False
) -> bytes:
    """Return a TPM's endorsement key, which stands for the chip, as DER SubjectPublicKeyInfo.

    Args:
        uri: a `tpm2:` URI.
        pin: where PINs come from, as for `open_key`.
        allow_modules: whether the URI may name any library to load, as for `open_key`.

    Raises:
        UsageError: the URI is malformed, or not of a TPM.
        SigningKeyError: the TPM can't be reached, or refused.
        PinError: the auth value of the endorsement hierarchy is missing, wrong or locked.
    """
    parsed = KeyURI.of(uri).resolved()
    lack = f"{parsed.scheme}: keys have no endorsement key", "Give a tpm2: URI"
    function, module = ShowsEndorsementKey.endorsement_key, parsed.backend.attestation
    read_public = capability(parsed, function, module, lack, returns=bytes, allow_modules=allow_modules)
    return read_public(parsed, PinSource.of(pin))


def read_trust(folder: str, now: datetime | None = None) -> Trust:
    """Return the trust in the vendors' certificates in a folder: its files .pem, .crt, .cer and .der.

    Args:
        folder: the folder.
        now: the time at which certificates must be valid, with its zone; None for the present.

    Raises:
        UsageError: the folder can't be read, or has no such file.
        CertificateError, AttestationError: a file can't be read as certificates.
    """
    files = root_files(folder)
    found = [one for path in files for one in find_certificates(KeyURI("file", {"path": os.fsencode(path)}))]
    return Trust(tuple(VendorCertificate.read(one.der, one.uri) for one in found), now)


def claimed_endorsement_key(statement: Document) -> str:
    """Return the SHA-256 of the endorsement key that a TPM's statement claims; empty for other hardware.

    Raises:
        AttestationError: the key can't be read.
    """
    ek = statement.blob("ekPublic")
    return hashlib.sha256(read_public(ek, "the public area of the endorsement key").spki).hexdigest() if ek else ""


def examine(statement: Document, trust: Trust) -> Findings:
    """Return what a statement claims. It proves nothing.

    Raises:
        AttestationError: it can't be true: its certificates lead to no root, or its parts don't fit together.
    """
    return _with_csr(_verifier(statement).examine(statement, trust), statement)


def challenge(statement: Document, trust: Trust, *, pcrs: str = "") -> tuple[Document, Document]:
    """Return the challenge to a statement, and the state that the verifier keeps for itself until the answer.

    Args:
        statement: the statement.
        trust: the trusted roots.
        pcrs: TPM: the PCRs to ask for a quote of, such as `sha256:7`. Whether the answer has it, its findings say.

    Raises:
        AttestationError: as `examine`.
    """
    examine(statement, trust)
    common = {"statement": statement.digest(), "nonce": secrets.token_bytes(NONCE_BYTES)}
    values, own = _verifier(statement).challenge(statement)
    created = trust.time().astimezone(UTC).strftime(_TIME)
    state = new("state", statement.format, {**common, **own, "created": created})
    asked: dict[str, Value] = {"pcrs": pcrs} if pcrs else {}
    return new("challenge", statement.format, {**common, **values, **asked}), state


def verify_answer(statement: Document, state: Document, answer: Document, trust: Trust) -> Findings:
    """Return what an answer proves.

    Args:
        statement: the statement.
        state: the state of its challenge.
        answer: the answer to that.
        trust: the trusted roots.

    Raises:
        AttestationError: it proves nothing: it answers another challenge or statement, it is not from the chip of the
            statement, or it was changed.
    """
    if (state.format, state.blob("statement")) != (statement.format, statement.digest()):
        raise AttestationError("the state is of the challenge to another statement", "Give the statement's own state")
    if (answer.format, answer.blob("nonce")) != (state.format, state.blob("nonce")):
        raise AttestationError("the answer is to another challenge", "Ask for the answer to this one")
    found = _verifier(statement).verify(statement, state, answer, trust)
    since = f"All this was so after {state.text('created')}, when the challenge was made"
    return _with_csr(replace(found, proven=(*found.proven, since)), statement)


def _proving(
    function: Callable[Concatenate[Any, _Given], _Result], returns: type, uri: KeyURI, *, allow_modules: bool
) -> Callable[_Given, _Result]:
    """Return a function of the backend's attestation module, which is imported for it; see `capability`."""
    lack = f"{uri.scheme}: keys can't be attested", "Use a key in a TPM or a PKCS #11 token"
    return capability(uri, function, uri.backend.attestation, lack, returns=returns, allow_modules=allow_modules)


def _made(uri: KeyURI) -> Callable[[Kind, str, Mapping[str, Value]], Document]:
    """Return `new`, which blames a backend from elsewhere for members that the document can't have."""
    return uri.backend._guarded(uri.scheme, uri.backend.attestation, new)


def _verifier(statement: Document) -> _VerifiesStatements:
    module: _VerifiesStatements = importlib.import_module(_VERIFIERS[statement.format])
    return module


def _with_csr(found: Findings, statement: Document) -> Findings:
    """Return the findings with whether the statement's request is signed by its key, which must be long enough."""
    if is_short(found.public_key):
        raise AttestationError("the key is an RSA key of less than 2048 bits", "Make one with hwsigner keygen")
    csr = statement.blob("certificateRequest")
    return replace(found, matches_csr=is_signed_by(found.public_key, csr)) if csr else found
