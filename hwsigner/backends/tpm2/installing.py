"""Putting a certificate beside its TPM key: into a file, or into an NV index of the owner."""

from __future__ import annotations

from collections.abc import Sequence

from tpm2_pytss import ESYS_TR, TPM2_ALG, TPM2B_NV_PUBLIC, TPMA_NV, TPMS_NV_PUBLIC, TSS2_Exception

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.key_files import certificate_files, is_certificate_of, write_certificates
from hwsigner.backends.tpm2 import nv
from hwsigner.backends.tpm2.connection import connected
from hwsigner.backends.tpm2.description import describe_key
from hwsigner.backends.tpm2.errors import NV_SPACE, code
from hwsigner.backends.tpm2.objects import ParentAuth
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.backends.tpm2.uris import named_handle, named_nv_index, session_settings, tcti_of
from hwsigner.errors import CertificateError, HwsignerError, SigningKeyError, UsageError
from hwsigner.key import FoundCertificate
from hwsigner.key.management import InstalledCertificate

_ATTRIBUTES = TPMA_NV.OWNERWRITE | TPMA_NV.OWNERREAD | TPMA_NV.AUTHREAD | TPMA_NV.NO_DA
_NV_INDEX_MAX = 0x117  # TPM 2.0 Library, part 2, 6.13: the bytes of the largest NV index.
_MAX_BYTES = 2048
_STEP = 128  # An index has a multiple of this many bytes, so that the next certificate fits, too.
# Counters and the like; locked.
_NOT_WRITABLE = TPMA_NV.TPM2_NT_MASK | TPMA_NV.WRITELOCKED
_ANOTHER = "Name another NV index, or use the certificate's file"


def install_certificate(
    uri: KeyURI, pins: PinSource, chain: Sequence[FoundCertificate], *, nv_index: str = ""
) -> InstalledCertificate:
    """Put a leaf and its intermediates into a file beside the key file, or the leaf into an NV index.

    The file is `web.crt` for the key file `web.pem`. It has mode 0644 and holds the leaf and then the intermediates in
    PEM. It is replaced in one step, unless it holds anything else than certificates of this key.

    The NV index can be written by the owner and read by every user. A new one is defined. One that holds certificates
    is written again, and its old content is written back after a failure; it is never removed to make room. A leaf that
    fits into what the TPM writes at once, mostly 1,024 bytes, is written in one step; after a power failure between two
    steps, the index must be written again. The intermediates go into `web.chain.crt`. For a key at a handle, they stay
    where they are, and a note says so. A file of that name with anything else than certificates of this key is a
    CertificateError. A wrong auth value of the owner was sent once.
    """
    leaf, *intermediates = [found.der for found in chain]
    is_file = named_handle(uri) is None
    if not (is_file or nv_index):
        raise UsageError(
            f"there is no file beside {uri.name} for its certificate",
            "Add --nv-index 0x01c20000; or do not install it, and name its file with --certificate",
        )
    public_key = describe_key(uri, pins).public_key
    if not nv_index:
        path = certificate_files(uri.file)[0]
        write_certificates(path, [leaf, *intermediates], public_key)
        return InstalledCertificate(path)
    query = {name: value for name, value in uri.query.items() if name == "tcti"}
    named = KeyURI("tpm2", {"nv": nv_index.encode("utf-8", "surrogateescape")}, query)
    index = named_nv_index(named)
    if index in nv.EK_CERTIFICATES:
        hint = "Use another one, such as 0x01c20000"
        raise UsageError(f"{nv.nv_name(index)} is reserved for certificates of endorsement keys", hint)
    _write_index(uri, _Index(index, leaf, ParentAuth(uri, pins)))
    notes = [f"Any program with the owner's auth value can change or remove {nv.nv_name(index)}"]
    path = ""
    if intermediates and is_file:
        path = certificate_files(uri.file)[1]
        write_certificates(path, intermediates, None)
    elif intermediates:
        notes.append("The intermediates are not in the TPM: keep their file, and name it with --intermediates")
    return InstalledCertificate(str(named), path, tuple(notes))


def installed_indices(tpm: TPM, public_key: bytes) -> list[int]:
    """Return the NV indices that `install_certificate` defined, and that hold one certificate, of this key."""
    by_index: dict[int, list[bytes]] = {}
    for index, leaf in nv.list_certificates(tpm):
        by_index.setdefault(index, []).append(leaf)
    return [
        index
        for index, leaves in by_index.items()
        if len(leaves) == 1 and is_certificate_of(leaves[0], public_key) and _is_defined_here(tpm, index)
    ]


def remove_index(tpm: TPM, auth: ParentAuth, public_key: bytes, index: int) -> None:
    """Remove one of `installed_indices`, unless it is gone already, or holds something else by now."""
    if index in installed_indices(tpm, public_key):
        _undefine(tpm, auth, index)


def _undefine(tpm: TPM, auth: ParentAuth, index: int) -> None:
    with nv.open_index(tpm, index) as found:
        if found is not None:
            auth.as_owner(tpm, tpm.esys.nv_undefine_space, found.handle)


def _is_defined_here(tpm: TPM, index: int) -> bool:
    with nv.open_index(tpm, index) as found:
        return found is not None and found.attributes == int(_ATTRIBUTES | TPMA_NV.WRITTEN)


def _write_index(uri: KeyURI, index: _Index) -> None:
    settings = session_settings(uri)
    with connected(tcti_of(uri), index) as connection:
        connection.run(index.examine, index.name, settings)
        try:
            connection.run(index.write, index.name, settings)
            connection.run(index.check, index.name, settings)
        except BaseException:
            try:
                connection.run(index.restore, index.name, settings)
            except HwsignerError as error:
                raise SigningKeyError(
                    f"{index.name} was not written, and can't be put back as it was: {error.message}",
                    "Install the certificate again",
                ) from error
            raise


class _Index:
    """The NV index that a leaf goes into. Each method can be repeated. `auth` gives the owner's auth value."""

    def __init__(self, index: int, leaf: bytes, auth: ParentAuth) -> None:
        self.name = nv.nv_name(index)
        self._index = index
        self._leaf = leaf
        self._auth = auth
        self._is_new = False
        self._size = 0
        self._old = b""  # What it held, if it was written before.

    def examine(self, tpm: TPM) -> None:
        """Find out whether the leaf fits, and keep what the index holds."""
        most = min(_MAX_BYTES, tpm.property(_NV_INDEX_MAX))
        if len(self._leaf) > most:
            raise self._too_long(f"an NV index of the TPM at {tpm.tcti} has {most} at most")
        with nv.open_index(tpm, self._index) as found:
            self._is_new = found is None
        if found is None:
            self._size = min(-(-len(self._leaf) // _STEP) * _STEP, most)
            return
        attributes, self._size = found.attributes, found.size
        if attributes & _NOT_WRITABLE or not attributes & TPMA_NV.OWNERWRITE:
            raise SigningKeyError(f"the owner can't write to {self.name}", _ANOTHER)
        if len(self._leaf) > self._size:
            raise self._too_long(f"{self.name} has {self._size}")
        if attributes & TPMA_NV.WRITTEN:
            self._old = nv.read_index(tpm, self._index)
            try:
                nv.certificates_in(self._old, self._index)
            except CertificateError as error:
                raise SigningKeyError(f"{error.message}, so it is not overwritten", _ANOTHER) from error

    def write(self, tpm: TPM) -> None:
        """Define the index if it is new, and write the leaf, padded with zeros."""
        if self._is_new:
            with nv.open_index(tpm, self._index) as found:
                if found is None:
                    self._define(tpm)
        self._fill(tpm, self._leaf.ljust(self._size, b"\0"))

    def check(self, tpm: TPM) -> None:
        """Read the leaf back; raise a SigningKeyError if it is another one."""
        if nv.read_certificates(tpm, self._index) != [self._leaf]:
            raise SigningKeyError(f"{self.name} does not hold what was written", "Install the certificate again")

    def restore(self, tpm: TPM) -> None:
        """Make the index what it was before."""
        if self._old:
            self._fill(tpm, self._old)
        elif self._is_new:
            _undefine(tpm, self._auth, self._index)

    def _define(self, tpm: TPM) -> None:
        area = TPMS_NV_PUBLIC(nvIndex=self._index, nameAlg=TPM2_ALG.SHA256, attributes=_ATTRIBUTES, dataSize=self._size)
        try:
            defined = self._auth.as_owner(tpm, tpm.esys.nv_define_space, b"", TPM2B_NV_PUBLIC(nvPublic=area))
        except TSS2_Exception as error:
            if code(error) != NV_SPACE:
                raise
            problem = f"the TPM at {tpm.tcti} has no room for an NV index of {self._size} bytes"
            raise SigningKeyError(problem, "Remove an index with tpm2_nvundefine, or use a certificate file") from error
        tpm.esys.tr_close(defined)

    def _fill(self, tpm: TPM, data: bytes) -> None:
        at_once, owner = tpm.property(nv.NV_BUFFER_MAX), ESYS_TR.RH_OWNER
        with nv.open_index(tpm, self._index) as found:
            if found is None:
                raise SigningKeyError(f"{self.name} is gone", "Install the certificate again")
            for start in range(0, len(data), at_once):
                part = data[start : start + at_once]
                self._auth.as_owner(tpm, tpm.esys.nv_write, found.handle, part, start, owner)

    def _too_long(self, room: str) -> SigningKeyError:
        return SigningKeyError(f"the certificate has {len(self._leaf)} bytes, and {room}", _ANOTHER)
