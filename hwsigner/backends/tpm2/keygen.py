"""Making a key in a TPM: in a TSS2 PRIVATE KEY file, or at a persistent handle.

The key is made under the owner hierarchy's primary key, which the key file's draft names. What the TPM made is compared
with what was asked for before anything is written. So a process that is killed leaves no key, or a whole one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import get_args

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMS_SENSITIVE_CREATE,
    TPMT_PUBLIC_PARMS,
    TSS2_Exception,
)

from hwsigner._pins import PinRequest, PinSource
from hwsigner._system.notices import waiting
from hwsigner._uri import KeyURI
from hwsigner.backends.key_files import check_new_key_file, write_new_key_file
from hwsigner.backends.tpm2 import handles
from hwsigner.backends.tpm2.connection import TPMConnection, connected
from hwsigner.backends.tpm2.description import describe_file, describe_persistent
from hwsigner.backends.tpm2.encode import write_tss2_pem
from hwsigner.backends.tpm2.errors import is_about_parameter
from hwsigner.backends.tpm2.key_file import HIERARCHIES, PolicyCommand, TSS2Key
from hwsigner.backends.tpm2.objects import LoadableObject, ParentAuth, PersistentObject
from hwsigner.backends.tpm2.pcrs import PCRSelection, policy_digest
from hwsigner.backends.tpm2.srk import ecc_primary
from hwsigner.backends.tpm2.tpm import TPM, SessionSettings
from hwsigner.backends.tpm2.uris import handle_name, named_handle, session_settings, tcti_of
from hwsigner.errors import BackendUnavailableError, PinError, SigningKeyError, UnsupportedKeyError, UsageError
from hwsigner.key.management import KeyAlgorithm, KeyDescription, KeyRequest

_OWNER = next(handle for handle, name in HIERARCHIES.items() if name == "owner")
_ATTRIBUTES = (
    TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.SENSITIVEDATAORIGIN | TPMA_OBJECT.SIGN_ENCRYPT
)
_MAX_PIN_BYTES = 32  # A digest of the key's nameAlg, SHA-256 (TPM 2.0 Library, part 3, 12.1).
_SLOW = "waiting for the TPM to make the key: some take a minute for RSA"
_UNLIMITED = (
    "Wrong PINs are not counted (noDA): any program that may use the TPM and has the key can guess without limit"
)


def generate_key(uri: KeyURI, pins: PinSource, request: KeyRequest) -> KeyDescription:
    """Make a key that never leaves the TPM, in a new key file of mode 0600 or at a free persistent handle.

    Its PIN is the auth value, of 32 bytes at most, if a place gives one; the user is not asked. Without a PIN, the key
    has noDA, unless the request says otherwise: in lockout, it would refuse to sign because of PINs of other keys. With
    PCRs, it needs a file, as nothing at a handle lists the policy. A wrong auth value of the owner was sent once. If
    something is at this place already, that is a SigningKeyError.
    """
    request.require_only("noda", "pcrs", kind="keys in a TPM")
    handle = named_handle(uri)
    if handle is None:
        check_new_key_file(uri.file)
    else:
        handles.check_own_handle(handle)
        if request.pcrs:
            hint = "Make it in a file: tpm2:path=FILE"
            raise UsageError(
                f"a key with PCRs can't be at a handle ({uri.name}), which has no place for the policy", hint
            )
    making = _Making(uri, pins, request, handle)
    with connected(tcti_of(uri), making) as connection:
        file = making.make(connection)
        if handle is None:
            write_new_key_file(uri.file, write_tss2_pem(file).encode())
            made = describe_file(uri, file)
        else:
            making.make_persistent(connection, file, handle)
            made = describe_persistent(uri, PersistentObject(handle, handle_name(handle)), making.has_pin)
    return replace(made, notes=tuple(making.notes()))


class _Making:
    """One key that is being made. Its handle is None for a file."""

    def __init__(self, uri: KeyURI, pins: PinSource, request: KeyRequest, handle: int | None) -> None:
        self._request = request
        self._handle = handle
        self._subject = uri.file if handle is None else handle_name(handle)
        self._settings: SessionSettings = session_settings(uri)
        self._auth = ParentAuth(uri, pins)
        self._pcrs = PCRSelection(request.pcrs) if request.pcrs else None
        self._pin = _new_pin(uri, pins, self._subject)
        self.has_pin = bool(self._pin)
        self._noda = not self.has_pin if request.noda is None else request.noda

    def make(self, connection: TPMConnection) -> TSS2Key:
        """Make the key, load it, and return it once it is as it was asked for. Nothing is left in the TPM."""
        file = connection.run(self._create, self._subject, self._settings)
        key = LoadableObject(file, self._subject, self._auth)
        try:
            connection.run(key.public, self._subject, self._settings)
        finally:
            connection.release(key)
        made = TPM2B_PUBLIC.unmarshal(file.public)[0]
        asked = self._template(file.policy)
        asked.publicArea.unique = made.publicArea.unique
        if asked.marshal() != made.marshal():
            raise SigningKeyError(
                f"the TPM made another key for {self._subject} than was asked for, so it was thrown away",
                "Find out what is between this program and the TPM",
            )
        return file

    def make_persistent(self, connection: TPMConnection, file: TSS2Key, handle: int) -> None:
        """Put the key at its handle, and make sure that it is there."""
        key = LoadableObject(file, self._subject, self._auth)
        name = bytes(TPM2B_PUBLIC.unmarshal(file.public)[0].get_name())

        def persist(tpm: TPM) -> None:
            with key.loaded(tpm) as loaded:
                handles.persist(tpm, self._auth, loaded, name, handle)

        try:
            connection.run(persist, self._subject, self._settings)
            there = connection.run(lambda tpm: handles.name_at(tpm, handle), self._subject, self._settings)
        except BackendUnavailableError as error:
            unknown = f"{error.message}; the new key may be at {self._subject}"
            raise BackendUnavailableError(unknown, "If it is there, delete it with hwsigner delete") from error
        finally:
            connection.release(key)
        if there != name:
            raise SigningKeyError(f"the TPM did not keep the new key at {self._subject}", "Make the key again")

    def notes(self) -> Iterator[str]:
        """Yield what the key's owner should know, a sentence each."""
        if self._pcrs:
            yield from self._pcrs.notes
        if self.has_pin and self._noda:
            yield _UNLIMITED
        if not (self.has_pin or self._noda):
            yield "It has no PIN and still refuses to sign while the TPM is in lockout: noDA is not set"

    def _create(self, tpm: TPM) -> TSS2Key:
        if self._handle is not None:
            handles.check_free(tpm, self._handle)
        _check_algorithm(tpm, self._request.algorithm)
        policy = self._pcrs.policy(tpm, with_auth=self.has_pin) if self._pcrs else ()
        secret = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=self._pin))
        with tpm.temporary(partial(_owner_primary, tpm, self._auth)) as parent:
            # The session encrypts the PIN, and shows that the TPM of the pinned storage root key made the key.
            session = tpm.authorize(parent, b"", encrypts=True)
            name = bytes(tpm.esys.tr_get_name(parent)).hex()
            with waiting(_SLOW):
                private, public, *_ = tpm.esys.create(parent, secret, self._template(policy), session1=session)
        parts = public.marshal(), private.marshal()
        return TSS2Key(not self.has_pin, _OWNER, *parts, policy=policy, parent_name=name)

    def _template(self, policy: tuple[PolicyCommand, ...]) -> TPM2B_PUBLIC:
        """Return the public area to ask for. With a policy, the auth value alone opens nothing."""
        attributes = _ATTRIBUTES | (TPMA_OBJECT(0) if policy else TPMA_OBJECT.USERWITHAUTH)
        attributes |= TPMA_OBJECT.NODA if self._noda else TPMA_OBJECT(0)
        return TPM2B_PUBLIC.parse(
            _kind(self._request.algorithm),
            objectAttributes=TPMA_OBJECT(attributes),
            nameAlg=TPM2_ALG.SHA256,
            authPolicy=policy_digest(policy),
        )


def _owner_primary(tpm: TPM, auth: ParentAuth) -> ESYS_TR:
    return auth.as_owner(tpm, tpm.esys.create_primary, None, ecc_primary(), ESYS_TR.RH_OWNER)[0]


def _check_algorithm(tpm: TPM, algorithm: KeyAlgorithm) -> None:
    """Raise an UnsupportedKeyError if the TPM can't make a key of this algorithm."""
    if not _can_make(tpm, algorithm):
        possible = ", ".join(other for other in get_args(KeyAlgorithm) if _can_make(tpm, other))
        raise UnsupportedKeyError(f"the TPM at {tpm.tcti} can't make {algorithm} keys", f"Use one of {possible}")


def _kind(algorithm: KeyAlgorithm) -> str:
    """Return an algorithm as tpm2_create -G writes it. The scheme is null: a key with one refuses other hashes."""
    return algorithm.replace("p", "ecc")


def _can_make(tpm: TPM, algorithm: KeyAlgorithm) -> bool:
    if algorithm.startswith("mldsa"):
        return False
    template = TPM2B_PUBLIC.parse(_kind(algorithm))
    area = template.publicArea
    try:
        tpm.esys.test_parms(TPMT_PUBLIC_PARMS(type=area.type, parameters=area.parameters))
    except TSS2_Exception as error:
        if not is_about_parameter(error):
            raise
        return False
    return True


def _new_pin(uri: KeyURI, pins: PinSource, subject: str) -> bytes:
    """Return the PIN for a new key, or empty bytes if no place gives one."""
    pin = (pins.offered(uri, PinRequest("new TPM auth value", subject)) or "").encode("utf-8", "surrogateescape")
    if not pin and uri.has_pin:
        raise PinError(f"the PIN for {subject} is empty", "Put one there, or make a key without pin-source")
    if len(pin) > _MAX_PIN_BYTES:
        raise PinError(f"the PIN for {subject} has more than {_MAX_PIN_BYTES} bytes", "Choose a shorter one")
    if pin.endswith(b"\0"):
        raise PinError(f"the PIN for {subject} ends in a NUL character, which a TPM removes", "Choose another one")
    return pin
