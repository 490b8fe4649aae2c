"""Making keys with the label of this trial on a token, and deleting what trials have made.

What a trial made has a CKA_ID that is a hash of its label, which no other key with such a label has.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, PKCS11Session, from_number
from hwsigner.backends.pkcs11.keygen import PRIVATE, PUBLIC, STORED, KeyKind
from hwsigner.backends.pkcs11.objects import read_key
from hwsigner.backends.pkcs11.piv import is_piv
from hwsigner.backends.pkcs11.writing import FALSE, KeyPair, Template, WritingSession
from hwsigner.key.management import KeyAlgorithm
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.subject import MadePair, TriedToken

_PREFIX = "hwsigner-trial-"
_LABEL = re.compile(rb"hwsigner-trial-[0-9a-f]{8}")
# All for which trials of any version make something, so that what a killed one left is known.
_USES = ("p256", "rsa2048", "mldsa44", "p256session", "p256draft", "p256same", "p256deleted", "copy")
_CLASSES = {
    ObjectClass.PRIVATE_KEY: "private key",
    ObjectClass.PUBLIC_KEY: "public key",
    ObjectClass.CERTIFICATE: "certificate",
}


def new_label() -> str:
    """Return the label for what one trial makes."""
    return _PREFIX + secrets.token_hex(4)


def require_writing(tried: TriedToken) -> None:
    """Raise a NotAskedError unless the trial may make objects that can be told from the user's."""
    if not (tried.plan.label or tried.plan.is_cleaning):
        raise NotAskedError("nothing is written without --write")
    library = tried.module.functions.library()["library-description"]
    if is_piv(tried.info) or "piv" in f"{tried.info.manufacturer} {tried.info.model} {library}".lower():
        raise NotAskedError("a PIV card keeps no labels, so nothing on it could be told from the user's own")


@contextmanager
def writing_session(tried: TriedToken) -> Iterator[WritingSession]:
    """Log in and open a session that can change the token; raise a NotAskedError if it may not or can't."""
    require_writing(tried)
    tried.log_in_if_wanted()
    try:
        session = WritingSession(tried.module.functions, tried.slot)
    except PKCS11Error as error:
        raise NotAskedError(f"no session that can write: {error.name}") from None
    try:
        if tried.others_before is None:
            tried.others_before = count_others(tried, session)
        tried.has_written = True
        yield session
    finally:
        with suppress(PKCS11Error):
            session.close()


def count_others(tried: TriedToken, session: PKCS11Session) -> int:
    """Return how many objects on the token are not the trial's."""
    return len(session.find(None, {})) - len(left_by_trials(session, tried.plan.label))


def own_id(label: str, use: str) -> bytes:
    """Return the CKA_ID of what a trial with a label makes for a use."""
    return hashlib.sha256(f"{label} {use}".encode()).digest()[:8]


def generate(
    tried: TriedToken, session: WritingSession, kind: KeyAlgorithm, *, use: str = "", stored: Template = STORED
) -> KeyPair:
    """Make a key pair as `hwsigner keygen` does, on the token or with another template for the session alone.

    The use makes its id differ from those of other key pairs of the kind: NSS's softokn deletes them together.

    Raises:
        PKCS11Error: the token refused.
        NotAskedError: it gave the key pair another label or id, so it was deleted: it could not be found later.
    """
    known, key_id = KeyKind.of(kind), own_id(tried.plan.label, kind + use)
    names = {Attribute.LABEL: tried.plan.label.encode(), Attribute.ID: key_id, **stored}
    names[Attribute.KEY_TYPE] = from_number(known.key_type)
    pair = session.generate_key_pair(known.mechanism, {**PUBLIC, **names, **known.size}, {**PRIVATE, **names})
    if not all(_is_ours(session, handle, tried.plan.label) for handle in pair):
        for handle in pair:
            session.destroy(handle)
        raise NotAskedError("the token does not keep labels and ids, so what the trial makes could not be found again")
    return pair


def make(tried: TriedToken, kind: KeyAlgorithm) -> MadePair:
    """Return the trial's key pair of a kind, made when it is first needed.

    Raises:
        NotAskedError: nothing may be written, or the token refused.
    """
    if kind not in tried.made:
        if tried.has_written and not tried.made:  # A process before this one has crashed.
            delete_left(tried, tried.plan.label)
        require_writing(tried)
        if tried.module.functions.mechanism(tried.slot, KeyKind.of(kind).mechanism) is None:
            raise NotAskedError("the token lists no mechanism that makes such keys")
        with writing_session(tried) as session:
            try:
                tried.made[kind] = _read(tried, session, generate(tried, session, kind), kind)
            except PKCS11Error as error:
                tried.made[kind] = error.name
    made = tried.made[kind]
    if isinstance(made, str):
        raise NotAskedError(f"the token made no {kind} key: {made}")
    return made


def _is_ours(session: PKCS11Session, handle: int, label: str) -> bool:
    """Return whether an object has a label and an id that a trial with this label gives."""
    read = session.read(handle, (Attribute.LABEL, Attribute.ID))
    ids = {own_id(label, use) for use in _USES}
    return read.get(Attribute.LABEL) == label.encode() and read.get(Attribute.ID) in ids


def left_by_trials(session: PKCS11Session, label: str = "") -> dict[int, str]:
    """Return the objects that a trial with this label made, or any trial, with what they are."""
    return {handle: text for handle, (text, is_ours) in _labelled(session, label).items() if is_ours}


def not_left_by_trials(session: PKCS11Session) -> list[str]:
    """Return what has a label as trials give it, and was made by something else."""
    return [text for text, is_ours in _labelled(session, "").values() if not is_ours]


def _labelled(session: PKCS11Session, label: str) -> dict[int, tuple[str, bool]]:
    """Return the objects with a label of a trial: what they are, and whether a trial made them."""
    found = {}
    # The template is not trusted: what is found is deleted.
    for handle in session.find(None, {Attribute.LABEL: label.encode()} if label else {}):
        read = session.read(handle, (Attribute.LABEL,)).get(Attribute.LABEL, b"")
        if _LABEL.fullmatch(read) and (not label or read == label.encode()):
            text = f"{_CLASSES.get(session.class_of(handle), 'object')} {read.decode()}"
            found[handle] = text, _is_ours(session, handle, read.decode())
    return found


def delete_left(tried: TriedToken, label: str = "") -> int:
    """Delete what a trial with this label made, or any trial; return how many objects are still there.

    Raises:
        NotAskedError: the trial can't log in or write.
    """
    with writing_session(tried) as session:
        for handle in left_by_trials(session, label):
            with suppress(PKCS11Error):
                session.destroy(handle)
        left = len(left_by_trials(session, label))
    if not left:
        tried.has_written = False
        tried.made.clear()
    return left


def _read(tried: TriedToken, session: WritingSession, pair: KeyPair, kind: str) -> MadePair:
    """Return what a new key pair is; raise a NotAskedError if the private key can't be read."""
    key = read_key(session, ObjectClass.PRIVATE_KEY, pair.private)
    if key is None:
        raise NotAskedError("the token does not show the new private key")
    return MadePair(key, read_key(session, ObjectClass.PUBLIC_KEY, pair.public), own_id(tried.plan.label, kind))


SESSION_ONLY: Template = {Attribute.TOKEN: FALSE}
