"""What a killed process leaves of a key pair that it was making. A mark on disk says which names the key pair gets.

The mark is written once nothing on the token has these names, and removed when the key pair is whole. Until then, what
has them was made by hwsigner, or by another program after the kill. So only what no program can use is deleted.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from hwsigner._uri import KeyURI
from hwsigner.backends import refusals
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, PKCS11Session
from hwsigner.backends.pkcs11.objects import KeyObject
from hwsigner.backends.pkcs11.stored import Stored, destroy, find_stored
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.backends.pkcs11.writing import FALSE, TRUE, KeyPair, WritingSession


class _Left(NamedTuple):
    """What has the names of a mark: the objects of a key pair that is not whole, and the one that is whole, if any."""

    parts: tuple[Stored, ...] = ()
    pair: KeyPair | None = None


class MakingMark:
    """The mark for a new key pair on a token, which the next process finds if this one is killed.

    The label is the CKA_LABEL of the key pair.
    """

    def __init__(self, token: OpenToken, label: bytes) -> None:
        self._token = token
        self._label = label
        self._name = f"making-{hashlib.sha256(token.info.identity + label).hexdigest()[:32]}"

    def write(self, key_id: bytes) -> None:
        """Write the mark, with the CKA_ID of the key pair, which is not empty.

        If no folder can keep it, the next process deletes nothing.
        """
        refusals.note(self._name, key_id.hex())

    def remove(self) -> None:
        """Remove the mark: the key pair is whole, or nothing of it is there."""
        refusals.forget(self._name)

    def is_part(self, session: PKCS11Session, private: KeyObject) -> bool:
        """Return whether a private key is a part of a key pair that is not whole, or was found by such a part alone.

        If nothing is such a part, remove the mark.
        """
        parts = self._left(session).parts
        if not parts:
            self.remove()
        return bool(parts) and (
            private.label != self._label or any(one.object.handle == private.handle for one in parts)
        )

    def clear(self, session: WritingSession) -> KeyPair | None:
        """Delete the parts of a key pair that is not whole; return one that is whole."""
        left = self._left(session)
        for one in left.parts:
            destroy(self._token, session, one)
        return left.pair

    def _left(self, session: PKCS11Session) -> _Left:
        try:
            key_id = bytes.fromhex(refusals.noted(self._name))
        except ValueError:  # The power went while it was written.
            key_id = b""
        if not key_id:
            return _Left()
        # SoftHSM copies an object before it changes the id of the copy.
        named = find_stored(session, KeyURI("pkcs11", {"object": self._label}))
        found = [one for one in named if one.object.id in (key_id, b"")]
        by_id = find_stored(session, KeyURI("pkcs11", {"id": key_id}))
        if any(one.kind == ObjectClass.CERTIFICATE for one in (*found, *by_id)):
            return _Left()
        privates = [one for one in found if one.kind == ObjectClass.PRIVATE_KEY]
        publics = [one for one in found if one.kind == ObjectClass.PUBLIC_KEY]
        for private in privates:
            own = [one for one in publics if one.object.id == private.object.id and one.object.public_key]
            is_shown = bool(own or (private.object.id and private.object.public_key))
            if not _may_be_part(session, private.object.handle, is_shown=is_shown):
                is_pair = len(own) == 1 and private.object.id == key_id
                return _Left(pair=KeyPair(own[0].object.handle, private.object.handle) if is_pair else None)
        return _Left((*privates, *publics))


def _may_be_part(session: PKCS11Session, handle: int, *, is_shown: bool) -> bool:
    """Return whether a private key was made in the token but shows no public key, or was cut off while it was made.

    A key that another program has imported is neither.
    """
    values = session.read(handle, (Attribute.LOCAL, Attribute.MODIFIABLE))
    if values.get(Attribute.LOCAL) == TRUE:
        return not is_shown
    return values.get(Attribute.MODIFIABLE) == FALSE
