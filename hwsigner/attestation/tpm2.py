"""The verifier for keys of TPMs. It needs no TPM and no library for one.

What it proves rests on three links: the vendor's certificate, or the verifier's administrator, says that the
endorsement key (EK) is a TPM's; only the chip of the EK opens the challenge's secret, and only while it holds the
attestation key (AK); and the AK, which signs what the TPM made itself and nothing else, certifies the key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwsigner.attestation import structures as tpm
from hwsigner.attestation.chain import Trust, VendorCertificate, in_usual_form
from hwsigner.attestation.credential import make_credential
from hwsigner.attestation.documents import Document, Value, binding
from hwsigner.attestation.findings import Findings
from hwsigner.attestation.search import Search
from hwsigner.attestation.structures import Public, Quoted, read_certified, read_public, read_quoted, verify_signature
from hwsigner.attestation.weaknesses import is_roca, weaknesses_of_tpm
from hwsigner.errors import AttestationError

_SECRET_BYTES = 32
# TCG EK Credential Profile, 3.2.16: the extended key usage of an endorsement key's certificate.
_EK_USAGE = "2.23.133.8.1"
_POLICY_AUTH_VALUE, _POLICY_PCR = 0x16B, 0x17F  # TPM_CC (part 2, 6.5.2).
_STAYS = (tpm.FIXED_TPM, tpm.FIXED_PARENT, tpm.SENSITIVE_DATA_ORIGIN)


@dataclass(frozen=True)
class _Parts:
    """The parts of a statement, checked by themselves.

    If the administrator certifies the endorsement key, `certificate` is None, and `uncertified` is what is wrong with
    the vendor's certificate.
    """

    key: Public
    ak: Public
    ek: Public
    certificate: VendorCertificate | None
    uncertified: str


def examine(statement: Document, trust: Trust) -> Findings:
    """Return what a statement claims.

    Raises:
        AttestationError: a key lacks an attribute that keeps it in the TPM, or the certificate of the endorsement key
            is missing, leads to no root or is not valid, and the key is not trusted without one.
    """
    parts = _read(statement, trust)
    return _findings(parts, claimed=_sentences(parts))


def challenge(statement: Document) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return what a challenge has for the chip of the endorsement key, and what the verifier keeps for itself."""
    secret = secrets.token_bytes(_SECRET_BYTES)
    ek, ak = (read_public(statement.blob(name), name) for name in ("ekPublic", "akPublic"))
    blob, encrypted = make_credential(ek, ak.name, secret)
    return {"credentialBlob": blob, "encryptedSecret": encrypted}, {"secret": secret}


def verify(statement: Document, state: Document, answer: Document, trust: Trust) -> Findings:
    """Return what an answer proves.

    If the chip did not open the secret, or did not certify the key for this challenge, that is an AttestationError.
    """
    parts = _read(statement, trust)
    secret = state.blob("secret")
    if not hmac.compare_digest(answer.blob("secret"), secret):
        hint = "Only the statement's own chip can open it: make statement and answer on the same machine"
        raise AttestationError("the answer does not have the challenge's secret", hint)
    expected = hashlib.sha256(binding(state) + secret).digest()
    info = answer.blob("certifyInfo")
    verify_signature(parts.ak, answer.blob("certifySignature"), info, "the certification")
    certified = read_certified(info)
    _check_extra_data(certified.extra_data, expected, "the certification")
    if certified.name != parts.key.name:
        raise AttestationError("the certification is of another key than the statement", "Name the same key twice")
    firmware = f"The TPM's firmware is version {certified.firmware >> 32:#x}.{certified.firmware & 0xFFFFFFFF:#x}"
    pcrs, policy = _quoted(parts.key, parts.ak, answer, expected)
    proven = (*_sentences(parts), firmware, *(f"PCR {name} is {value}" for name, value in pcrs.items()), *policy)
    in_hardware = not any(is_roca(key.spki) for key in (parts.key, parts.ek))
    return _findings(parts, proven=proven, in_hardware=in_hardware, pcrs=pcrs)


def _read(statement: Document, trust: Trust) -> _Parts:
    key = read_public(statement.blob("keyPublic"), "the public area of the key")
    ak = read_public(statement.blob("akPublic"), "the public area of the attestation key")
    ek = read_public(statement.blob("ekPublic"), "the public area of the endorsement key")
    _require(key, "the key can be copied or was not made in the TPM", *_STAYS)
    _require(key, "the key does not sign", tpm.SIGN)
    _require(ak, "the attestation key can be copied or was not made in the TPM", *_STAYS)
    if ak.type != tpm.ECC or not ak.has(tpm.RESTRICTED, tpm.SIGN) or ak.has(tpm.DECRYPT):
        problem = "the attestation key is not an ECC key restricted to what the TPM makes"
        raise AttestationError(problem, "Make the statement with hwsigner attest")
    if not ek.has(*_STAYS, tpm.RESTRICTED, tpm.DECRYPT) or ek.has(tpm.SIGN):
        raise AttestationError("the endorsement key is not a TPM's storage key", "Use a standard endorsement key")
    return _Parts(key, ak, ek, *_endorsed(ek, statement.blobs("ekCertificates"), trust))


def _require(public: Public, problem: str, *attributes: int) -> None:
    if not public.has(*attributes):
        raise AttestationError(problem, "Make a key with hwsigner keygen and attest that")


def _endorsed(ek: Public, certificates: Sequence[bytes], trust: Trust) -> tuple[VendorCertificate | None, str]:
    """Return the vendor's certificate, or what is wrong with it if the endorsement key is trusted without one."""
    try:
        search = Search(trust)
        given = [search.read(one, "an EK certificate") for one in certificates]
        return _ek_certificate(ek, given, search), ""
    except AttestationError as error:
        if _chip(ek) not in trust.endorsement_keys:
            raise
        return None, error.message


def _chip(ek: Public) -> str:
    return hashlib.sha256(ek.spki).hexdigest()


def _ek_certificate(ek: Public, given: Sequence[VendorCertificate], search: Search) -> VendorCertificate:
    """Return the certificate of the endorsement key, after verifying that it leads to a root."""
    problems = []
    for leaf in given:
        if in_usual_form(leaf.public_key) == ek.spki:
            try:
                _verify_ek_certificate(leaf, given, search)
            except AttestationError as error:  # Another one may be newer.
                problems.append(error)
            else:
                return leaf
    if problems:
        raise problems[0]
    hint = "If the TPM holds none, add the vendor's with --vendor-certificates, or trust the key: --ek-public-key"
    raise AttestationError("the statement has no certificate of the endorsement key", hint)


def _verify_ek_certificate(leaf: VendorCertificate, given: Sequence[VendorCertificate], search: Search) -> None:
    search.verify(leaf, given)
    usage = leaf.extensions.get("extended_key_usage")
    is_for_ek = _EK_USAGE in [one.dotted for one in usage] if usage else bool(_chip_names(leaf))
    if leaf.is_ca or not is_for_ek:
        problem = f"the certificate of {leaf.subject or 'the endorsement key'} is not one of an endorsement key"
        raise AttestationError(problem, "Trust only roots of TPM vendors")


def _chip_names(certificate: VendorCertificate) -> dict[str, str]:
    """Return the names of the TPM in an EK certificate, by asn1crypto's: `tpm_manufacturer` and the like."""
    found: dict[str, str] = {}
    for name in certificate.extensions.get("subject_alt_name") or ():
        if name.name == "directory_name":
            found |= {k: str(v) for k, v in name.chosen.native.items() if k.startswith("tpm_")}
    return found


def _findings(parts: _Parts, **found: Any) -> Findings:
    vendor = _vendor(parts.certificate) if parts.certificate else ""
    warnings = weaknesses_of_tpm(parts.key.spki, parts.ek.spki, vendor)
    return Findings(parts.key.spki, _chip(parts.ek), warnings=warnings, uncertified=parts.uncertified, **found)


def _sentences(parts: _Parts) -> tuple[str, ...]:
    chip = "The chip is the one whose endorsement key you certify. No vendor's certificate says that it is a TPM"
    if parts.certificate:
        model = _chip_names(parts.certificate).get("tpm_model", "")
        named = " ".join(filter(None, (_vendor(parts.certificate), model))) or "of an unnamed model"
        chip = f"The chip is a TPM ({named}), certified by {parts.certificate.issuer}"
    return (
        chip,
        "The key was made in this TPM and can't leave it (fixedTPM, fixedParent, sensitiveDataOrigin)",
        *_guards(parts.key),
    )


def _vendor(certificate: VendorCertificate) -> str:
    """Return a TPM vendor's letters: those of `id:494E5443` are INTC (TCG TPM Vendor ID Registry)."""
    identifier = _chip_names(certificate).get("tpm_manufacturer", "")
    with suppress(ValueError):
        letters = bytes.fromhex(identifier.removeprefix("id:")).decode("ascii").strip("\0 ")
        return letters if letters.isalnum() else identifier
    return identifier


def _guards(key: Public) -> list[str]:
    guards = []
    if key.has(tpm.USER_WITH_AUTH):
        counted = "are not counted" if key.has(tpm.NO_DA) else "put the TPM in lockout"
        guards.append(f"The key signs for any user with its auth value, which may be empty; wrong ones {counted}")
    if key.policy:
        signs = "The key also signs" if key.has(tpm.USER_WITH_AUTH) else "The key signs only"
        guards.append(f"{signs} while its policy is satisfied, which has the digest {key.policy.hex()}")
    elif not guards:
        guards.append("Nothing satisfies the key's policy, so it never signs")
    if key.has(tpm.RESTRICTED):
        guards.append("The key signs only messages that the TPM hashed itself")
    if key.has(tpm.DECRYPT):
        guards.append("The key also decrypts")
    return guards


def _quoted(key: Public, ak: Public, answer: Document, expected: bytes) -> tuple[dict[str, str], list[str]]:
    """Return the PCRs in the answer's quote, if it has one, by name, and a sentence for a policy of their values."""
    info, signature, values = answer.blob("quoteInfo"), answer.blob("quoteSignature"), answer.blobs("pcrValues")
    if not (info or signature or values):
        return {}, []
    hash_name = verify_signature(ak, signature, info, "the quote")
    quoted = read_quoted(info)
    _check_extra_data(quoted.extra_data, expected, "the quote")
    # Their lengths too: else the same bytes, cut at other places, would be other values.
    lengths = [hashlib.new(tpm.BANKS[bank]).digest_size if bank in tpm.BANKS else 0 for bank, _ in quoted.pcrs]
    joined = hashlib.new(hash_name, b"".join(values)).digest()
    if [len(value) for value in values] != lengths or joined != quoted.digest:
        raise AttestationError("the answer's PCR values are not those of the quote", "Ask for another answer")
    named = {
        f"{tpm.BANKS.get(bank, hex(bank))}:{number}": value.hex()
        for (bank, number), value in zip(quoted.pcrs, values, strict=True)
    }
    return named, _pcr_policy(key, quoted)


def _pcr_policy(key: Public, quoted: Quoted) -> list[str]:
    """Return a sentence if the key's policy is that of the quoted PCRs' values (part 3, 23.7 and 23.17)."""
    pcrs = struct.pack(">I", _POLICY_PCR) + quoted.selection + quoted.digest
    digest = hashlib.new(tpm.HASH_NAMES[key.name_hash], bytes(len(key.policy)) + pcrs).digest()
    with_auth = hashlib.new(tpm.HASH_NAMES[key.name_hash], digest + struct.pack(">I", _POLICY_AUTH_VALUE)).digest()
    if key.has(tpm.USER_WITH_AUTH) or key.policy not in (digest, with_auth):
        return []
    needed = ", and with its auth value, which may be empty" if key.policy == with_auth else ""
    return [f"The key signs only while these PCRs have these values{needed}"]


def _check_extra_data(found: bytes, expected: bytes, name: str) -> None:
    if found != expected:
        raise AttestationError(f"{name} was made for another challenge", "Ask for the answer to this one")


if TYPE_CHECKING:
    from hwsigner.attestation import _VerifiesStatements, tpm2

    _: _VerifiesStatements = tpm2
