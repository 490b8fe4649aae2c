"""A key's life: making it, putting its certificate beside it, saying what guards it, proving that, and deleting it.

What a backend can do of this is a Protocol for each capability, in the modules that its description names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, get_args

from hwsigner._pins import AskPin, PinSource
from hwsigner._uri import KeyURI
from hwsigner.errors import UsageError
from hwsigner.key import FoundCertificate, Key, capability, open_key

KeyAlgorithm = Literal["p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096", "mldsa44", "mldsa65", "mldsa87"]
AttestedValue = bytes | tuple[bytes, ...] | str


@dataclass(frozen=True)
class KeyRequest:
    """What a new key must be like. A backend refuses what its hardware can't do.

    Attributes:
        algorithm: the curve, RSA with the bits of its modulus, or the parameter set of ML-DSA.
        always_authenticate: PKCS #11: whether each signature needs the PIN.
        accept_unproven: PKCS #11: whether the token may deny that the key was made in it (CKA_LOCAL).
        pin_policy: PIV: `never`, `once` or `always`; empty for the card's default.
        touch_policy: PIV: `never`, `always` or `cached`; empty for the card's default.
        noda: TPM: whether wrong auth values of this key are not counted; None for yes if it has no auth value.
        pcrs: TPM: the PCRs that must not change, such as `sha256:7,14`.
        overwrite: PIV: whether what is in the slot may be replaced.
    """

    algorithm: KeyAlgorithm = "p256"
    always_authenticate: bool = False
    accept_unproven: bool = False
    pin_policy: Literal["", "never", "once", "always"] = ""
    touch_policy: Literal["", "never", "always", "cached"] = ""
    noda: bool | None = None
    pcrs: str = ""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(KeyAlgorithm):
            raise UsageError(
                f"{self.algorithm!r} is not an algorithm for keys", f"Use {', '.join(get_args(KeyAlgorithm))}"
            )

    def require_only(self, *names: str, kind: str) -> None:
        """Check that nothing was asked for that a backend can't do, except the algorithm.

        Args:
            names: the attributes that it can do.
            kind: which keys it makes, for the message, such as `keys in files`.

        Raises:
            UsageError: another attribute is set. The message names the first as its flag.
        """
        for one in fields(self):
            if one.name not in ("algorithm", *names) and getattr(self, one.name) != one.default:
                raise inapplicable(one.name.replace("_", "-"), kind)


@dataclass(frozen=True)
class KeyDescription:
    """What is known of a key.

    Attributes:
        uri: the URI that names it alone.
        place: where it is, in words: `token 'alpha'`, `the TPM, handle 0x81000001`.
        public_key: the DER SubjectPublicKeyInfo, or None if the token does not show it.
        guards: what a signature needs, and what keeps the key from being copied, a sentence each.
        properties: the same for programs, by names in camel case, such as `extractable` and `pcrs`; None for unknown.
        notes: what its owner should know, a sentence each: that it can be copied, that a firmware update ends it.
    """

    uri: str
    place: str
    public_key: bytes | None
    guards: tuple[str, ...] = ()
    properties: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def whereabouts(self) -> str:
        """The place, and that the key can be copied from there, if that is known."""
        return f"{self.place}, from which it can be copied" if self.properties.get("extractable") else self.place


@dataclass(frozen=True)
class InstalledCertificate:
    """Where a certificate was put.

    Attributes:
        certificate: the URI or path of the leaf, for `--certificate`.
        intermediates: the path of the CA certificates above it if they are in a file of their own, for
            `--intermediates`; otherwise an empty string.
        notes: what its owner should know, a sentence each.
    """

    certificate: str
    intermediates: str = ""
    notes: tuple[str, ...] = ()


def inapplicable(flag: str, kind: str) -> UsageError:
    """Return the error for a flag that has no meaning for some keys, such as `keys in files`."""
    return UsageError(f"--{flag} does not apply to {kind}", "Leave it out: it is for another kind of key")


@dataclass(frozen=True)
class KeyAccess:
    """A key URI, and how its key is opened.

    Attributes:
        uri: the key URI.
        pins: where its PIN comes from.
        allow_modules: whether the URI may name any library to load, as for `open_key`.
    """

    uri: KeyURI
    pins: PinSource
    allow_modules: bool = False

    def open(self) -> Key:
        """Open the key; see `open_key`."""
        return open_key(self.uri, self.pins, allow_modules=self.allow_modules)

    def describe(self) -> KeyDescription:
        """Return what is known of the key; see `describe_key`."""
        return describe_key(self.uri, self.pins, allow_modules=self.allow_modules)


Confirm = Callable[[Sequence[str]], None]
_CERTIFIED = "given their certificates"
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class MakesKeys(Protocol):
    """A backend's management module that makes keys."""

    def generate_key(self, uri: KeyURI, pins: PinSource, request: KeyRequest) -> KeyDescription:
        """Make a key, and read it back; see `generate_key`."""
        ...


class DescribesKeys(Protocol):
    """A backend's management module that says what guards a key."""

    def describe_key(self, uri: KeyURI, pins: PinSource) -> KeyDescription:
        """Return what is known of a key; see `describe_key`."""
        ...


class InstallsCertificates(Protocol):
    """A backend's management module that has a place for the certificates of its keys."""

    def install_certificate(
        self, uri: KeyURI, pins: PinSource, chain: Sequence[FoundCertificate], *, nv_index: str = ""
    ) -> InstalledCertificate:
        """Put a chain beside its key; see `install_certificate`."""
        ...


class DeletesKeys(Protocol):
    """A backend's management module that deletes keys."""

    def delete_key(self, uri: KeyURI, pins: PinSource, confirm: Confirm) -> tuple[str, ...]:
        """Delete a key and what belongs to it; see `delete_key`."""
        ...


class ManagesKeys(MakesKeys, DescribesKeys, InstallsCertificates, DeletesKeys, Protocol):
    """A backend's management module that can do all this."""


class ProvesKeys(Protocol):
    """A backend's attestation module."""

    def formats(self) -> Sequence[str]:
        """Return the formats of its documents."""
        ...

    def make_statement(
        self, uri: KeyURI, pins: PinSource, *, certificates: tuple[bytes, ...]
    ) -> tuple[str, Mapping[str, AttestedValue]]:
        """Return the format and the members of the statement about a key; see `hwsigner.attestation`."""
        ...

    def answer_challenge(
        self, uri: KeyURI, pins: PinSource, challenge: Mapping[str, bytes], *, pcrs: str
    ) -> Mapping[str, AttestedValue]:
        """Return the members of the answer to a challenge.

        Args:
            uri: the key URI.
            pins: where the PIN comes from.
            challenge: the challenge's members, and `message`, the bytes to be signed.
            pcrs: TPM: the PCRs to add a quote of; empty for none.
        """
        ...


class ShowsEndorsementKey(Protocol):
    """An attestation module for chips with an endorsement key."""

    def endorsement_key(self, uri: KeyURI, pins: PinSource) -> bytes:
        """Return the endorsement key as DER SubjectPublicKeyInfo."""
        ...


def generate_key(
    uri: str | KeyURI,
    request: KeyRequest | None = None,
    pin: str | AskPin | PinSource | None = None,
    *,
    allow_modules: bool = False,
) -> KeyDescription:
    """Make a key in the place that a key URI names, and read back whether it is what was asked for.

    Nothing is overwritten. If the key was not made as asked, it is removed again.

    Args:
        uri: the key URI of the new key.
        request: what the key must be like; None for a P-256 key.
        pin: where the PIN comes from, as for `open_key`.
        allow_modules: whether the URI may name any library to load, as for `open_key`.

    Raises:
        UsageError: the URI or the request is malformed, or does not fit this backend.
        UnsupportedKeyError: the hardware can't make such a key. It was asked first.
        SigningKeyError: there is such a key already, or the hardware refused; the message names what is left there.
        PinError: a PIN is missing, wrong or locked. A wrong PIN is sent once.
    """
    parsed = KeyURI.of_new(uri)
    make = _managing(MakesKeys.generate_key, KeyDescription, parsed, "made", allow_modules=allow_modules)
    return make(parsed, PinSource.of(pin), request or KeyRequest())


def describe_key(
    uri: str | KeyURI, pin: str | AskPin | PinSource | None = None, *, allow_modules: bool = False
) -> KeyDescription:
    """Return what is known of the key that a key URI names. The key signs nothing.

    Args:
        uri: the key URI.
        pin: where the PIN comes from, as for `open_key`.
        allow_modules: whether the URI may name any library to load, as for `open_key`.

    Raises:
        UsageError: the URI is malformed.
        SigningKeyError: the key can't be found.
        PinError: it is hidden behind a PIN that is missing, wrong or locked.
    """
    parsed = KeyURI.of(uri).resolved()
    describe = _managing(DescribesKeys.describe_key, KeyDescription, parsed, "described", allow_modules=allow_modules)
    return describe(parsed, PinSource.of(pin))


def install_certificate(
    uri: str | KeyURI,
    chain: Sequence[FoundCertificate],
    pin: str | AskPin | PinSource | None = None,
    *,
    nv_index: str = "",
    allow_modules: bool = False,
) -> InstalledCertificate:
    """Put a leaf, and the CA certificates above it, beside their key. The caller has checked that they fit the key.

    The old certificate is kept until the new one is in, and written back after a failure.

    Args:
        uri: the key URI.
        chain: the leaf, then the intermediates in order.
        pin: where the PIN comes from, as for `open_key`.
        nv_index: TPM: the NV index for the leaf, such as `0x01c20000`; empty for a file beside the key.
        allow_modules: whether the URI may name any library to load, as for `open_key`.

    Raises:
        UsageError: the URI is malformed, the backend has no place for certificates, or the chain is not DER.
        SigningKeyError: the key can't be found, or the token is full or read-only.
        PinError: a PIN is missing, wrong or locked.
    """
    parsed = KeyURI.of(uri).resolved()
    if not _is_der(chain):
        raise UsageError("the chain is not of certificates in DER", "Pass a list of FoundCertificate with DER bytes")
    function = InstallsCertificates.install_certificate
    install = _managing(function, InstalledCertificate, parsed, _CERTIFIED, allow_modules=allow_modules)
    return install(parsed, PinSource.of(pin), chain, nv_index=nv_index)


def require_place_for_certificate(access: KeyAccess, nv_index: str = "") -> None:
    """Check that the backend of a key has a place for its certificate, before the key is made or used.

    Args:
        access: the key.
        nv_index: TPM: the NV index for the leaf; empty for a file beside the key.

    Raises:
        UsageError: it has none.
    """
    function = InstallsCertificates.install_certificate
    uri = access.uri.resolved()
    if uri.scheme == "tpm2" and "handle" in uri.path and not nv_index:
        hint = "Add --nv-index 0x01c20000, or have the key in a file: tpm2:path=FILE"
        raise UsageError(f"there is no file beside {uri.name} for its certificate", hint)
    _managing(function, InstalledCertificate, uri, _CERTIFIED, allow_modules=access.allow_modules)


def delete_key(
    uri: str | KeyURI, confirm: Confirm, pin: str | AskPin | PinSource | None = None, *, allow_modules: bool = False
) -> tuple[str, ...]:
    """Delete a key and what belongs to it, and read back whether it is gone.

    Args:
        uri: the key URI. It must name one key.
        confirm: gets what would go, a line each, before anything is touched. It raises an error to keep it.
        pin: where the PIN comes from, as for `open_key`.
        allow_modules: whether the URI may name any library to load, as for `open_key`.

    Returns:
        What is gone, a line each.

    Raises:
        SigningKeyError: the key can't be found, or is still there afterwards.
        PinError: a PIN is missing, wrong or locked.
    """
    parsed = KeyURI.of(uri).resolved()
    delete = _managing(DeletesKeys.delete_key, tuple, parsed, "deleted", allow_modules=allow_modules)
    return delete(parsed, PinSource.of(pin), confirm)


def _is_der(chain: object) -> bool:
    """Return whether these are certificates that may be DER: its first byte is that of a SEQUENCE."""
    return isinstance(chain, Sequence) and all(
        isinstance(one, FoundCertificate) and one.der.startswith(b"\x30") for one in chain
    )


def _managing(
    function: Callable[Concatenate[Any, _Given], _Result], returns: type, uri: KeyURI, done: str, *, allow_modules: bool
) -> Callable[_Given, _Result]:
    """Return a function of the backend's management module, which is imported for it; see `capability`."""
    hint = "Name a file, a token or a TPM" if uri.scheme in ("env", "fd") else "Use the tool that comes with them"
    lack = f"{uri.scheme}: keys can't be {done} by hwsigner", hint
    return capability(uri, function, uri.backend.management, lack, returns=returns, allow_modules=allow_modules)
