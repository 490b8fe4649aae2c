"""Keys of a TPM 2.0: TSS2 PRIVATE KEY files, and persistent handles.

A TPM has no login. The auth value goes with each signature, and it is the first one that shows whether it is right.
"""

from __future__ import annotations

from tpm2_pytss import TPM2_RH, TPM2_ST, TPM2B_DIGEST, TPMT_SIG_SCHEME, TPMT_TK_HASHCHECK, TSS2_Exception

from hwsigner.backends.tpm2.attempts import NO_AUTH, Proof, is_held_back
from hwsigner.backends.tpm2.auth import ParentAuth, key_auth, key_lock
from hwsigner.backends.tpm2.connection import TPM, Connection
from hwsigner.backends.tpm2.errors import HASH, SCHEME, code
from hwsigner.backends.tpm2.nv import nv_name, read_certificates
from hwsigner.backends.tpm2.public_area import PublicArea, encoded, read_public_area
from hwsigner.backends.tpm2.tcti import tcti_of
from hwsigner.backends.tpm2.uris import NamedKey, named_key, named_nv_index, session_settings
from hwsigner.errors import UnsupportedKeyError
from hwsigner.key import Algorithm, FoundCertificate, HashName, Key
from hwsigner.pins import PinSource
from hwsigner.uri import KeyURI

_NO_TICKET = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)


def open_key(uri: KeyURI, pins: PinSource, *, public_key: bytes | None = None) -> Key:
    """Open the key that a `tpm2:` URI names, and make sure that the TPM has it.

    The auth value is the PIN. Without one, a file that says so has the empty one, and so has a handle; otherwise, and
    where the TPM refused the empty one and counts that still, it is asked for.

    Args:
        uri: either `handle`, from 0x81000000 to 0x81ffffff, or `path`; the query's `tcti`, `pin-source`,
            `parent-pin-source`, `owner-pin-source`, `session`, `srk-name` and `accept-new-srk`.
        pins: where the auth value comes from.
        public_key: not used; a URI names one key.

    Raises:
        UsageError: the URI names neither a handle nor a file, or has an attribute that is not known here.
        BackendUnavailableError: the TPM can't be reached.
        KeyNotFoundError: there is nothing at the handle, or no such file.
        UnsupportedKeyError: the key is of a kind that can't be used, or the file is none.
        PinRequiredError: the key, or what stands above it, has an auth value and no place gives it.
        WrongPinError: that of what stands above the key is wrong; it was sent once.
        PinLockedError: the TPM is in lockout, and the key's parent is subject to that; or an auth value was held back.
        PinError: the auth value is longer than a TPM's can be.
        SigningKeyError: the storage root key is another one than before.
    """
    named = named_key(uri, ParentAuth(uri, pins))
    settings = session_settings(uri, named.file.parent if named.file else None)
    connection = Connection(tcti_of(uri), named.subject, settings)
    try:
        public, is_held_back = connection.run(lambda tpm: _examined(tpm, named, pins))
        lock = key_lock(named.subject, public.name, guarded=public.guarded)
        wants_auth = named.file is not None and not named.file.empty_auth and named.key.needs_auth
        if named.key.takes_auth:
            auth = key_auth(uri, pins, lock, wants_auth=wants_auth, is_held_back=is_held_back)
        else:
            auth = NO_AUTH
        return TPMKey(connection, named, public, Proof(lock, auth))
    except BaseException:
        connection.close(named.key)
        raise


def find_certificates(uri: KeyURI, pins: PinSource) -> list[FoundCertificate]:
    """Return the certificates in the NV index that a `tpm2:nv=` URI names.

    Args:
        uri: the URI; the query's `tcti`.
        pins: not used; certificates are public.

    Raises:
        UsageError: the URI names no NV index.
        BackendUnavailableError: the TPM can't be reached.
        CertificateError: there is no such index, it can't be read, or holds no certificate.
    """
    index = named_nv_index(uri)
    connection = Connection(tcti_of(uri), nv_name(index))
    try:
        return [FoundCertificate(der, uri.name) for der in connection.run(lambda tpm: read_certificates(tpm, index))]
    finally:
        connection.close()


class TPMKey(Key):
    """A key in a TPM, of whose slots it has one only while it signs, where there is no resource manager."""

    def __init__(self, connection: Connection, named: NamedKey, public: PublicArea, proof: Proof) -> None:
        self._connection = connection
        self._key = named.key
        self._public = public
        self._proof = proof
        self._subject = named.subject
        # Both take long to make.
        self._schemes: dict[HashName, TPMT_SIG_SCHEME] = {}
        self._digest = TPM2B_DIGEST()

    def __repr__(self) -> str:
        return f"<TPMKey {self._subject}>"

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm of the key's type."""
        return self._public.algorithm

    def public_key(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo, from the public area."""
        return self._public.public_key

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message, whose digest is made here, or in the TPM where the key is restricted.

        Raises:
            UnsupportedKeyError: the key or the TPM does not sign with this hash.
            WrongPinError: the auth value is wrong; it was sent once, and this key does not send it again.
            PinLockedError: nothing was sent: the TPM is in lockout, or one more wrong auth value would put it there, or
                an earlier one was wrong and this one is stored.
            SigningKeyError: the key is closed, or the TPM refused it; what it says is in the message.
        """
        if self._public.only_hash not in (None, hash):
            raise UnsupportedKeyError(
                f"key {self._subject} signs with {self._public.only_hash} only, not {hash}", "Ask for that hash"
            )
        # From the look at earlier refusals to the record of this one, no other process may try.
        return self._connection.run(lambda tpm: self._sign(tpm, message, hash), exclusive=self._proof.is_guess)

    def close(self) -> None:
        """Close the connection to the TPM."""
        self._connection.close(self._key)

    def _scheme(self, hash: HashName) -> TPMT_SIG_SCHEME:
        """Return the signing scheme for a hash."""
        if hash not in self._schemes:
            self._schemes[hash] = self._public.scheme(hash)
        return self._schemes[hash]

    def _sign(self, tpm: TPM, message: bytes, hash: HashName) -> bytes:
        digest, ticket = self._public.digest(tpm, message, hash)
        proof, auth = self._proof, self._proof.auth.value
        proof.check(tpm)
        try:
            with self._key.loaded(tpm) as handle, self._key.session(tpm, handle, auth) as session:
                tpm.is_at_risk = bool(auth) or proof.is_guess
                self._digest.buffer, scheme = digest, self._scheme(hash)
                try:
                    signature = tpm.esys.sign(handle, self._digest, scheme, ticket or _NO_TICKET, session1=session)
                except TSS2_Exception as error:
                    self._refuse_hash(error, hash)
                    raise
        except TSS2_Exception as error:
            proof.fail(tpm, error)
            raise
        proof.confirm()
        return encoded(signature)

    def _refuse_hash(self, error: TSS2_Exception, hash: HashName) -> None:
        if code(error) in (HASH, SCHEME):
            raise UnsupportedKeyError(
                f"the TPM does not sign with {hash} and key {self._subject}", "Use another hash"
            ) from error


def _examined(tpm: TPM, named: NamedKey, pins: PinSource) -> tuple[PublicArea, bool]:
    """Return what the key's public area says, and whether the empty auth value is held back."""
    public = read_public_area(named.key.public(tpm), named.subject)
    lock = key_lock(named.subject, public.name, guarded=public.guarded)
    return public, not pins.allow_final_try and is_held_back(tpm, lock)
