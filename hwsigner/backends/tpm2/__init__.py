"""Keys of a TPM 2.0: TSS2 PRIVATE KEY files, and persistent handles.

A TPM has no login. The auth value goes with each signature, and the first signature shows whether it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

from tpm2_pytss import TPM2B_DIGEST, TPMT_SIG_SCHEME, TSS2_Exception

from hwsigner._pins import FoundPin, PinRequest, PinSource, use_until_right
from hwsigner._uri import KeyURI
from hwsigner.backends.tpm2 import uris
from hwsigner.backends.tpm2.auth import NO_AUTH, AuthAttempt, Guarded, is_held_back, key_auth
from hwsigner.backends.tpm2.connection import TPMConnection, connect, connected
from hwsigner.backends.tpm2.errors import HASH, SCHEME, code
from hwsigner.backends.tpm2.objects import LoadableKey, ParentAuth
from hwsigner.backends.tpm2.public_area import HASHES, PublicArea, encoded, read_public_area
from hwsigner.backends.tpm2.tpm import TPM, SessionSettings
from hwsigner.errors import SigningKeyError, UnsupportedKeyError
from hwsigner.key import Algorithm, FoundCertificate, HashName, Key, unknown_hash

if TYPE_CHECKING:
    from hwsigner.key.listing import ListedToken


def open_key(uri: KeyURI, pins: PinSource, *, public_key: bytes | None = None) -> Key:
    """Open the key that a `tpm2:` URI names, after making sure that the TPM has it.

    The auth value is the PIN. It is asked for if the key file says that there is one, or if the TPM refused the empty
    one and still counts that. Otherwise it is the empty one, unless a place gives one. A wrong one of the parent or
    hierarchy was sent once. If the storage root key is another one than before, that is a SigningKeyError.
    """
    named = uris.named_key(uri, ParentAuth(uri, pins))
    subject, file, key = named
    settings = uris.session_settings(uri, file.parent if file else None)
    connection = connect(uris.tcti_of(uri), key)
    try:
        public, guarded, held_back = connection.run(partial(examine, uri, pins, named), subject, settings)
        wants_auth = file is not None and not file.empty_auth and key.needs_auth
        auth = NO_AUTH
        if key.takes_auth:
            auth = key_auth(uri, pins, guarded, wants_auth=wants_auth, is_held_back=held_back)

        def ask_again(state: str) -> FoundPin:
            return pins.find(uri, PinRequest(guarded.kind, guarded.subject, state))

        return TPMKey(connection, settings, key, public, AuthAttempt(guarded, auth), ask_again)
    except BaseException:
        connection.release(key)
        raise


def examine(uri: KeyURI, pins: PinSource, named: uris.NamedKey, tpm: TPM) -> tuple[PublicArea, Guarded, bool]:
    """Return a key's public area, what its auth value opens, and whether the empty one was wrong before."""
    subject, file, key = named
    public = read_public_area(key.public(tpm), subject)
    path = uri.file if file and file.empty_auth else ""
    guarded = Guarded("TPM auth value", subject, public.name, public.risks_lockout, "pin-source", path)
    return public, guarded, not pins.allow_final_try and is_held_back(tpm, guarded)


def find_certificates(uri: KeyURI, pins: PinSource) -> list[FoundCertificate]:
    """Return the certificates in the NV index that a `tpm2:nv=` URI names.

    If there is no such index, or it can't be read or holds no certificate, that is a CertificateError.
    """
    from hwsigner.backends.tpm2.nv import nv_name, read_certificates

    index = uris.named_nv_index(uri)
    with connected(uris.tcti_of(uri), object()) as connection:
        found = connection.run(lambda tpm: read_certificates(tpm, index), nv_name(index), SessionSettings())
    return [FoundCertificate(der, uri.name) for der in found]


def list_tokens(uri: KeyURI, pins: PinSource, *, log_in: bool = False) -> Iterator[ListedToken]:
    """Yield the TPM that a `tpm2:` URI names, with what can be used of it."""
    from hwsigner.backends.tpm2.listing import objects_of_tpm

    uri.require_known(frozenset(), uris.QUERY)
    tcti = uris.tcti_of(uri)
    with connected(tcti, object()) as connection:
        listed = connection.run(partial(objects_of_tpm, uri, tcti), uri.name, SessionSettings())
    yield listed


def check_modules(uri: KeyURI) -> None:
    """Refuse a URI whose TCTI can load or run any file: see `Backend`."""
    uris.check_tcti(uri)


class TPMKey(Key):
    """A key in a TPM. Without a resource manager, it takes up a slot of the TPM only while it signs."""

    def __init__(
        self,
        connection: TPMConnection,
        settings: SessionSettings,
        key: LoadableKey,
        public: PublicArea,
        attempt: AuthAttempt,
        ask_again: Callable[[str], FoundPin],
    ) -> None:
        self._connection: TPMConnection | None = connection
        self._settings = settings
        self._key = key
        self._public = public
        self._attempt = attempt
        self._ask_again = ask_again
        # Both take long to make.
        self._schemes: dict[HashName, TPMT_SIG_SCHEME] = {}
        self._digest = TPM2B_DIGEST()

    def __repr__(self) -> str:
        return f"<TPMKey {self._key.name}>"

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm of the key's type."""
        return self._public.algorithm

    def public_key(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo, from the public area."""
        return self._public.public_key

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message. Its digest is made here, or in the TPM if the key is restricted.

        Raises:
            UnsupportedKeyError: the key or the TPM does not sign with this hash.
            WrongPinError: the auth value is wrong; it was sent once, and this key does not send it again. If the user
                typed it, and more than one attempt is left, the user was asked again before.
            PinLockedError: nothing was sent: the TPM is in lockout, or one more wrong auth value would put it there, or
                an earlier one was wrong and this one is stored.
            SigningKeyError: the key is closed, or the TPM refused it; what it says is in the message.
        """
        connection, name, only_hash = self._connection, self._key.name, self._public.only_hash
        if connection is None:
            raise SigningKeyError(f"key {name} is closed", "Open it again")
        if hash not in HASHES:
            raise unknown_hash(hash)
        if only_hash not in (None, hash):
            raise UnsupportedKeyError(f"key {name} signs with {only_hash} only, not {hash}", f"Use {only_hash}")

        asked: list[FoundPin] = []

        def find(state: str) -> FoundPin | None:
            if not state:
                return self._attempt.auth.found
            asked.append(self._ask_again(state))
            return asked[-1]

        def sign(_: FoundPin | None) -> bytes:
            if asked:  # Not what was found before, which may be another thread's wrong one by now.
                self._attempt = self._attempt.another(asked.pop())
            # From the look at earlier refusals to keeping this one, no other process may send an auth value.
            one_process = self._attempt.is_guess
            work = partial(self._sign, message=message, hash=hash)
            return connection.run(work, name, self._settings, one_process=one_process)

        return sign(None) if self._attempt.is_proven else use_until_right(find, sign)

    def close(self) -> None:
        """Release the key. The connection to the TPM is closed with its last key."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(self._key)

    def _sign(self, tpm: TPM, message: bytes, hash: HashName) -> bytes:
        key, attempt = self._key, self._attempt
        digest, ticket = self._public.digest(tpm, message, hash)
        if hash not in self._schemes:
            self._schemes[hash] = self._public.scheme(hash)
        with attempt.sending(tpm), key.loaded(tpm) as handle, key.session(tpm, handle, attempt.auth.value) as session:
            tpm.is_at_risk = bool(attempt.auth.value) or attempt.is_guess
            self._digest.buffer = digest
            try:
                signature = tpm.esys.sign(handle, self._digest, self._schemes[hash], ticket, session1=session)
            except TSS2_Exception as error:
                if code(error) not in (HASH, SCHEME):
                    raise
                raise UnsupportedKeyError(
                    f"the TPM does not sign with {hash} and key {key.name}", "Use another hash"
                ) from error
        return encoded(signature)


if TYPE_CHECKING:
    from hwsigner.backends import tpm2
    from hwsigner.key import ChecksModules, FindsCertificates, OpensKeys
    from hwsigner.key.listing import ListsTokens

    class _Backend(OpensKeys, FindsCertificates, ListsTokens, ChecksModules, Protocol): ...

    _: _Backend = tpm2
