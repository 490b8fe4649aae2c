"""Statements about keys of PKCS #11 tokens, and answers to challenges; see `hwsigner.attestation`.

libykcs11 shows the attestation certificates that a YubiKey makes for the keys that it generated, and the certificate
of the attestation key. Of keys in other tokens, a statement says what the token says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import open_key
from hwsigner.backends.pkcs11.functions import Attribute, PKCS11Session
from hwsigner.backends.pkcs11.objects import KeyObject, Objects
from hwsigner.backends.pkcs11.search import choose_token, find_key, using
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.errors import UnsupportedKeyError, UsageError, printable
from hwsigner.key.management import inapplicable

# The labels of libykcs11: the certificate of slot f9, and those that end with the name of a slot.
_F9 = b"X.509 Certificate for PIV Attestation"
_CLAIMS = {"sensitive": Attribute.SENSITIVE, "neverExtractable": Attribute.NEVER_EXTRACTABLE, "local": Attribute.LOCAL}


def formats() -> tuple[str, ...]:
    """Return the formats of the documents about keys of tokens."""
    return ("piv", "pkcs11")


def make_statement(uri: KeyURI, pins: PinSource, *, certificates: Sequence[bytes] = ()) -> tuple[str, dict[str, Any]]:
    """Return the format and the members of the statement about a key.

    For a YubiKey, `certificates` has the DER of those between that of slot f9 and a root; for other tokens, it must be
    empty. A YubiKey must have generated the key.
    """
    with open_key(uri, pins) as opened:
        public_key = opened.public_key()
        if public_key is None:
            raise UnsupportedKeyError(f"the token does not show the public key of {uri.name}", "Store its certificate")
        with using(choose_token(uri, public_key)) as token:
            key = find_key(token, uri, pins, public_key)
            session = token.current_session()
            f9 = Objects(session, {Attribute.LABEL: _F9}).certificates
            if f9:
                slot = _slot_certificate(session, key, public_key, uri)
                members = {"slotCertificate": slot, "attestationCertificate": f9[0].der}
                return "piv", members | {"intermediates": tuple(certificates)}
            if certificates:
                raise UsageError(f"the token of {uri.name} has no attestation key", "Leave the certificates out")
            return "pkcs11", {"keyPublic": public_key, "token": _description(token), **_claims(session, key)}


def answer_challenge(uri: KeyURI, pins: PinSource, challenge: Mapping[str, Any], *, pcrs: str = "") -> dict[str, bytes]:
    """Return the members of the answer to a challenge: the key's signature of its message.

    PCRs are a UsageError: a token has none.
    """
    if pcrs:
        raise inapplicable("pcrs", "keys on a PKCS #11 token")
    with open_key(uri, pins) as key:
        return {"signature": key.sign(cast(bytes, challenge["message"]))}


def _slot_certificate(session: PKCS11Session, key: KeyObject, public_key: bytes, uri: KeyURI) -> bytes:
    """Return the attestation certificate of a key in a YubiKey."""
    for one in Objects(session, {Attribute.ID: key.id}).certificates:
        if one.label.startswith(_F9 + b" ") and one.public_key == public_key:
            return one.der
    hint = "Generate a key on it with hwsigner keygen: keys that were imported can't be attested"
    raise UnsupportedKeyError(f"the YubiKey has no attestation of {uri.name}", hint)


def _description(token: OpenToken) -> str:
    info = token.info
    return printable(f"token {info.label!r} ({info.manufacturer}, {info.model}, serial number {info.serial})")


def _claims(session: PKCS11Session, key: KeyObject) -> dict[str, str]:
    """Return what the token says of a key, without what it does not say."""
    values = session.read(key.handle, _CLAIMS.values())
    return {name: "yes" if any(values[flag]) else "no" for name, flag in _CLAIMS.items() if flag in values}


if TYPE_CHECKING:
    from hwsigner.backends.pkcs11 import attest
    from hwsigner.key.management import ProvesKeys

    _: ProvesKeys = attest
