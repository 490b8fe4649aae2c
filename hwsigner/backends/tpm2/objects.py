"""Keys as objects of a TPM: at a persistent handle, or loaded under a parent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPMT_PUBLIC,
    TPMT_SYM_DEF_OBJECT,
    TSS2_Exception,
)

from hwsigner._pins import FoundPin, PinRequest, PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.tpm2.auth import (
    EARLIER_FAILED,
    UNSTATED,
    AuthAttempt,
    AuthWantedError,
    Guarded,
    auth_of,
    guarded_hierarchy,
    is_held_back,
)
from hwsigner.backends.tpm2.errors import FAILURE, HANDLE, OTHER_PARENT, code, is_lost
from hwsigner.backends.tpm2.key_file import HIERARCHIES, TSS2Key
from hwsigner.backends.tpm2.other_chip import check_other_chip
from hwsigner.backends.tpm2.srk import STORAGE_ATTRIBUTES, ecc_primary
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.errors import KeyNotFoundError, PinRequiredError, SigningKeyError, UnsupportedKeyError, WrongPinError

if TYPE_CHECKING:
    from hwsigner.backends.tpm2.key_policy import KeyPolicy

_DAMAGED = "Restore the file, or make a new key"
_T = TypeVar("_T")
_Structure = TypeVar("_Structure", TPM2B_ENCRYPTED_SECRET, TPM2B_PRIVATE, TPM2B_PUBLIC)


class ParentAuth:
    """The auth values of a key's parent or hierarchy: the stored one, else the empty one, else one that is asked for.

    What is stored for the key itself is not sent to anything else.
    """

    def __init__(self, uri: KeyURI, pins: PinSource) -> None:
        self._uri = uri
        self._pins = pins.without_pin()
        self._attempts: dict[str, AuthAttempt] = {}

    def prove(self, tpm: TPM, handle: ESYS_TR, guarded: Guarded, work: Callable[[ESYS_TR], _T]) -> _T:
        """Return what a command returns that an auth value authorizes.

        The argument of `work`, the command, is the session that proves the auth value.

        Raises:
            AuthWantedError: it must be asked for.
            PinError: the auth value is missing, wrong, or may not be sent now.
            TSS2_Exception: the command failed for another reason.
        """
        attempt = self._attempts.get(guarded.name) or self._first(tpm, guarded)
        try:
            with attempt.sending(tpm):
                session = tpm.authorize(handle, attempt.auth.value)
                tpm.is_at_risk = tpm.is_at_risk or attempt.is_guess
                return work(session)
        except WrongPinError:
            if attempt.auth.origin != UNSTATED:
                raise
            raise AuthWantedError(lambda: self._ask(guarded, "")) from None
        finally:
            # Otherwise ESYS would send a hierarchy's with its next command that needs one, as a password.
            tpm.esys.tr_set_auth(handle, b"")

    def as_owner(self, tpm: TPM, command: Callable[..., _T], *arguments: object) -> _T:
        """Return what a method of the ESAPI context returns that the owner's auth value authorizes."""

        def work(session: ESYS_TR) -> _T:
            return command(*arguments, session1=session)

        return self.prove(tpm, ESYS_TR.RH_OWNER, guarded_hierarchy("owner"), work)

    def _first(self, tpm: TPM, guarded: Guarded) -> AuthAttempt:
        stored = self._pins.given(self._source(guarded))
        if stored is None and is_held_back(tpm, guarded):
            raise AuthWantedError(lambda: self._ask(guarded, EARLIER_FAILED))
        return self._keep(guarded, None if stored is None else FoundPin(stored, is_stored=True))

    def _ask(self, guarded: Guarded, state: str) -> None:
        try:
            found = self._pins.find(self._source(guarded), PinRequest(guarded.kind, guarded.subject, state))
        except PinRequiredError as error:
            raise PinRequiredError(
                f"{guarded.subject} needs its {guarded.kind}, and none was given",
                f"Add {guarded.hint}, or run from a terminal or where a pinentry can ask",
            ) from error
        self._keep(guarded, found)

    def _keep(self, guarded: Guarded, found: FoundPin | None) -> AuthAttempt:
        attempt = AuthAttempt(guarded, auth_of(found, guarded, allow_final_try=self._pins.allow_final_try))
        self._attempts[guarded.name] = attempt
        return attempt

    def _source(self, guarded: Guarded) -> KeyURI:
        """Return the URI with what is stored for the parent in place of what is stored for the key."""
        uri, source = self._uri.without_pin(), self._uri.text(guarded.source)
        return uri if source is None else uri.with_query("pin-source", source)


class LoadableKey(ABC):
    """A key that a TPM holds or can load."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._policy: KeyPolicy | None = None  # None if its auth value unlocks it.

    @property
    def takes_auth(self) -> bool:
        """Whether its auth value may be proven for a use: not if its policy needs none."""
        return self._policy is None or self._policy.takes_auth

    @property
    def needs_auth(self) -> bool:
        """Whether its auth value must be proven for a use: not if its policy can be satisfied without."""
        return self._policy is None or self._policy.needs_auth

    @abstractmethod
    def public(self, tpm: TPM) -> TPMT_PUBLIC:
        """Return the public area, after making sure that the TPM has or accepts the key."""

    @abstractmethod
    def loaded(self, tpm: TPM) -> AbstractContextManager[ESYS_TR]:
        """Load the key for a `with` statement. After that, it takes no slot of a TPM without a resource manager."""

    def _set_policy(self, public: TPMT_PUBLIC, file: TSS2Key | None) -> None:
        if not public.objectAttributes & TPMA_OBJECT.USERWITHAUTH:
            from hwsigner.backends.tpm2.key_policy import read_policy

            self._policy = read_policy(public, file, self.name)

    def session(self, tpm: TPM, handle: ESYS_TR, auth: bytes) -> AbstractContextManager[ESYS_TR]:
        """Open the session that authorizes a use of the loaded key with its auth value, for a `with` statement."""
        if self._policy is None:
            return nullcontext(tpm.authorize(handle, auth))
        return self._policy.session(tpm, handle, auth)


class PersistentObject(LoadableKey):
    """A key at a persistent handle."""

    def __init__(self, handle: int, name: str) -> None:
        super().__init__(name)
        self._handle = handle
        self._tpm_name = b""
        self._found: tuple[TPM, ESYS_TR] | None = None

    def public(self, tpm: TPM) -> TPMT_PUBLIC:
        """See `LoadableKey`. Raises a KeyNotFoundError if there is no key at the handle."""
        with self.loaded(tpm) as key:
            public = tpm.esys.read_public(key)[0].publicArea
        self._set_policy(public, None)
        return public

    @contextmanager
    def loaded(self, tpm: TPM) -> Iterator[ESYS_TR]:
        """See `LoadableKey`. It never takes up a slot."""
        if self._found is None or self._found[0] is not tpm:
            self._found = tpm, self._find(tpm)
        try:
            yield self._found[1]
        except TSS2_Exception as error:
            if is_lost(error):
                self._found = None
            raise

    def _find(self, tpm: TPM) -> ESYS_TR:
        try:
            found = tpm.esys.tr_from_tpmpublic(self._handle)
        except TSS2_Exception as error:
            if code(error) != HANDLE:
                raise
            raise KeyNotFoundError(
                f"the TPM has no key at {self.name}", "List its keys with hwsigner list tpm2:"
            ) from error
        tpm_name = bytes(tpm.esys.tr_get_name(found))
        if tpm_name != (self._tpm_name or tpm_name):
            tpm.esys.tr_close(found)  # Its auth value is another one, too.
            raise KeyNotFoundError(f"the TPM has another key at {self.name} than before", "Open it again")
        self._tpm_name = tpm_name
        return found


class LoadableObject(LoadableKey):
    """The key of a TSS2 file, loaded or imported under its parent once."""

    def __init__(self, file: TSS2Key, name: str, auth: ParentAuth) -> None:
        super().__init__(name)
        self._file = file
        self._auth = auth
        self._public = _unmarshal(TPM2B_PUBLIC, file.public, name)
        self._private = _unmarshal(TPM2B_PRIVATE, file.private, name)
        self._secret = _unmarshal(TPM2B_ENCRYPTED_SECRET, file.secret, name) if file.secret else None
        self._set_policy(self._public.publicArea, file)

    def public(self, tpm: TPM) -> TPMT_PUBLIC:
        """See `LoadableKey`. Raises a SigningKeyError if the TPM does not accept the key, or has no such parent."""
        with self.loaded(tpm):
            return self._public.publicArea

    def loaded(self, tpm: TPM) -> AbstractContextManager[ESYS_TR]:
        """See `LoadableKey`. Raises as `public`."""
        return tpm.loaded(self, lambda: self._load(tpm))

    def _load(self, tpm: TPM) -> ESYS_TR:
        hierarchy = HIERARCHIES.get(self._file.parent, "")
        try:
            return self._load_in_hierarchy(tpm, hierarchy) if hierarchy else self._load_under_persistent(tpm)
        except TSS2_Exception as error:
            if code(error) not in OTHER_PARENT:
                raise
            parent = f"the {hierarchy} hierarchy's primary key" if hierarchy else f"{self._file.parent:#010x}"
            raise SigningKeyError(
                f"the TPM does not accept key {self.name} under its parent, {parent}",
                "The key belongs to another TPM, to this one before it was cleared, or to another parent, or the file "
                "is damaged: use its own TPM, or make a new key",
            ) from error

    def _load_under_persistent(self, tpm: TPM) -> ESYS_TR:
        handle = f"{self._file.parent:#010x}"
        with ExitStack() as stack:
            try:
                parent = stack.enter_context(tpm.persistent(self._file.parent))
            except TSS2_Exception as error:
                if code(error) != HANDLE:
                    raise
                raise KeyNotFoundError(
                    f"the TPM has no parent {handle} for key {self.name}",
                    "List what it has with tpm2_getcap handles-persistent",
                ) from error
            attributes = tpm.esys.read_public(parent)[0].publicArea.objectAttributes
            name = bytes(tpm.esys.tr_get_name(parent)).hex()
            risks_lockout = not attributes & TPMA_OBJECT.NODA
            guarded = Guarded("TPM parent auth value", handle, name, risks_lockout, "parent-pin-source")
            return self._auth.prove(tpm, parent, guarded, partial(self._load_under, tpm, parent))

    def _load_in_hierarchy(self, tpm: TPM, name: str) -> ESYS_TR:
        hierarchy = _ESYS_HIERARCHIES[name]
        guarded = guarded_hierarchy(name)

        def create(template: TPM2B_PUBLIC, session: ESYS_TR) -> ESYS_TR:
            return tpm.esys.create_primary(None, template, hierarchy, session1=session)[0]

        refused: list[tuple[str, int]] = []
        for template in _primaries(self._file):
            prove = partial(self._auth.prove, tpm, hierarchy, guarded, partial(create, template()))
            with tpm.temporary(prove) as primary:
                try:
                    return self._load_under(tpm, primary, ESYS_TR.PASSWORD)
                except TSS2_Exception as error:
                    refusal = error
                    if code(error) not in (*OTHER_PARENT, FAILURE):
                        raise
                    refused.append((bytes(tpm.esys.tr_get_name(primary)).hex(), code(error)))
        check_other_chip(tpm, self._file, self.name, refused)
        raise refusal

    def _load_under(self, tpm: TPM, parent: ESYS_TR, session: ESYS_TR) -> ESYS_TR:
        private = self._private
        if self._secret is not None:
            no_cipher = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
            private = tpm.esys.import_(parent, b"", self._public, private, self._secret, no_cipher, session1=session)
        key = tpm.esys.load(parent, private, self._public, session1=session)
        # What was imported is loaded from now on, as the draft asks for: an import takes the TPM long.
        self._private, self._secret = private, None
        return key


def _unmarshal(kind: type[_Structure], data: bytes, name: str) -> _Structure:
    """Read a part of a key; raise an UnsupportedKeyError if it is damaged."""
    try:
        structure, length = kind.unmarshal(data)
    except TSS2_Exception as error:
        raise UnsupportedKeyError(f"key {name} is damaged: {error}", _DAMAGED) from error
    if length != len(data):
        excess = len(data) - length
        raise UnsupportedKeyError(f"key {name} is damaged: its {kind.__name__} has {excess} bytes too many", _DAMAGED)
    return structure


_ESYS_HIERARCHIES = {
    "owner": ESYS_TR.RH_OWNER,
    "null": ESYS_TR.RH_NULL,
    "endorsement": ESYS_TR.RH_ENDORSEMENT,
    "platform": ESYS_TR.RH_PLATFORM,
}
_rsa_primary = partial(
    TPM2B_PUBLIC.parse, "rsa2048:aes128cfb", objectAttributes=TPMA_OBJECT(STORAGE_ATTRIBUTES | TPMA_OBJECT.NODA)
)


def _zeros_ecc_primary() -> TPM2B_PUBLIC:
    template = ecc_primary()
    template.publicArea.unique.ecc.x = template.publicArea.unique.ecc.y = bytes(32)
    return template


def _zeros_rsa_primary() -> TPM2B_PUBLIC:
    template = _rsa_primary()
    template.publicArea.unique.rsa = bytes(256)
    return template


# The primary keys that a file's parent may be, the likeliest first.
_ECC: tuple[Callable[[], TPM2B_PUBLIC], ...] = (
    ecc_primary,  # The draft's own; tpm2-openssl, tpm2-pytss, ssh-tpm-agent.
    _zeros_ecc_primary,  # TCG's provisioning guidance; systemd.
    partial(TPM2B_PUBLIC.parse, "ecc256:aes128cfb", objectAttributes=STORAGE_ATTRIBUTES),  # tpm2_createprimary -G ecc
)
_RSA: tuple[Callable[[], TPM2B_PUBLIC], ...] = (
    _rsa_primary,  # The draft's own, H-1 without a policy.
    _zeros_rsa_primary,  # TCG's provisioning guidance.
    partial(TPM2B_PUBLIC.parse, "rsa2048:aes128cfb", objectAttributes=STORAGE_ATTRIBUTES),  # tpm2_createprimary
)
# The length of an importable key's secret shows the kind of key that it is encrypted to.
_RSA_SECRET = 2 + 256


def _primaries(file: TSS2Key) -> tuple[Callable[[], TPM2B_PUBLIC], ...]:
    """Return the templates of the primary keys that the file's parent may be."""
    if file.parent_name:
        return (ecc_primary,)
    if file.rsa_parent or len(file.secret) == _RSA_SECRET:
        return _RSA
    # A TPM takes seconds to make an RSA key of its seed.
    return _ECC if file.secret else (*_ECC, _RSA[-1])
