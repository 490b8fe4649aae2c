"""What `hwsigner list` shows of a TPM: keys at persistent handles, and certificates in NV indices."""

from __future__ import annotations

from tpm2_pytss import TPM2_ALG, TPM2_CAP, TPM2_HC, TPM2B_PUBLIC, TPMA_OBJECT, TPMT_PUBLIC

from hwsigner._uri import KeyURI
from hwsigner.backends.tpm2.handles import EK_HANDLES
from hwsigner.backends.tpm2.nv import EK_CERTIFICATES, list_certificates
from hwsigner.backends.tpm2.objects import PersistentObject
from hwsigner.backends.tpm2.public_area import read_public_area, spki_of
from hwsigner.backends.tpm2.srk import PROVISIONED
from hwsigner.backends.tpm2.tpm import TPM, Lockout
from hwsigner.backends.tpm2.uris import handle_name
from hwsigner.errors import KeyNotFoundError, UnsupportedKeyError
from hwsigner.key.listing import ListedObject, ListedToken

_LISTED = 100  # More persistent objects than a TPM has room for.
_MANUFACTURER = 0x105  # TPM2_PT_MANUFACTURER (TPM 2.0 Library, part 2, 6.13).


def objects_of_tpm(uri: KeyURI, tcti: str, tpm: TPM) -> ListedToken:
    """Return the TPM with what it shows without an auth value. The query of its URI is that of each object's URI."""
    _, answer = tpm.esys.get_capability(TPM2_CAP.HANDLES, TPM2_HC.PERSISTENT_FIRST, _LISTED)
    keys, others = [], []
    for handle in [int(one) for one in answer.data.handles]:
        try:
            held = _public(tpm, handle)
        except KeyNotFoundError:  # It was removed meanwhile.
            continue
        public = held.publicArea
        named = str(KeyURI("tpm2", {"handle": f"{handle:#010x}".encode()}, uri.query))
        try:
            read = read_public_area(public, named)
            keys.append(ListedObject("key", "", b"", named, public_key=read.public_key, notes=_notes(public)))
        except UnsupportedKeyError:
            others.append(_other_key(public, handle, named))
    certificates = []
    for index, der in list_certificates(tpm):
        label = "EK certificate" if index in EK_CERTIFICATES else ""
        named = str(KeyURI("tpm2", {"nv": f"{index:#010x}".encode()}, uri.query))
        certificates.append(ListedObject("certificate", label, b"", named, certificate=der))
    maker, state = _manufacturer(tpm), _pin_state(tpm.lockout())
    objects = (*keys, *certificates)
    return ListedToken(tcti, "TPM", maker, "TPM 2.0", "", 0, str(uri), False, False, state, objects, tuple(others))


def _public(tpm: TPM, handle: int) -> TPM2B_PUBLIC:
    """Return the public area. Its parts are valid only as long as the whole is held."""
    with PersistentObject(handle, handle_name(handle)).loaded(tpm) as key:
        return tpm.esys.read_public(key)[0]


def _notes(public: TPMT_PUBLIC) -> tuple[str, ...]:
    """Return what a key's public area says of its use. Whether it has an auth value is not there."""
    attributes = public.objectAttributes
    notes = {
        "policy": not attributes & TPMA_OBJECT.USERWITHAUTH,
        "noDA": attributes & TPMA_OBJECT.NODA,
        "restricted": attributes & TPMA_OBJECT.RESTRICTED,
        "can be copied": not (attributes & TPMA_OBJECT.FIXEDTPM and attributes & TPMA_OBJECT.FIXEDPARENT),
    }
    return tuple(name for name, holds in notes.items() if holds)


def _other_key(public: TPMT_PUBLIC, handle: int, named: str) -> ListedObject:
    """Return a key that can't make the service's signatures, with a label that says what it is for."""
    is_storage = public.objectAttributes & TPMA_OBJECT.RESTRICTED and public.objectAttributes & TPMA_OBJECT.DECRYPT
    if handle in EK_HANDLES:
        label = "endorsement key (EK)"
    elif is_storage:
        label = "storage root key (SRK)" if handle == PROVISIONED else "storage key"
    else:
        label = "unusable here"
    kinds = {TPM2_ALG.RSA: "RSA", TPM2_ALG.ECC: "EC", TPM2_ALG.KEYEDHASH: "HMAC", TPM2_ALG.SYMCIPHER: "symmetric"}
    kind = kinds.get(public.type, "")
    return ListedObject("key", label, b"", named, kind, spki_of(public), notes=_notes(public))


def _manufacturer(tpm: TPM) -> str:
    """Return the vendor's ID in TCG's registry, such as `INTC`."""
    return tpm.property(_MANUFACTURER).to_bytes(4, "big").rstrip(b"\0 ").decode("ascii", "replace")


def _pin_state(lockout: Lockout) -> str:
    """Return the state of the protection against guessing, in the words for a token's PIN."""
    if lockout.left is not None and lockout.left <= 1:
        return "one try is left" if lockout.left else "locked"
    return "an earlier try failed" if lockout.failures else "good"
