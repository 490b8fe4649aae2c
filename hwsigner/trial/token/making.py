"""Making keys with the label of this trial on a token, and deleting what trials have made."""

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
from hwsigner.trial.token.subject import Made, TriedToken

_PREFIX = "hwsigner-trial-"
_OURS = re.compile(rb"hwsigner-trial-[0-9a-f]{8}")
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


def own_id(tried: TriedToken, kind: str) -> bytes:
    """Return the CKA_ID of a key that the trial makes."""
    return hashlib.sha256(f"{tried.plan.label} {kind}".encode()).digest()[:8]


def templates(tried: TriedToken, kind: str, use: str, stored: Template) -> tuple[int, Template, Template]:
    """Return the mechanism and the attributes of a key pair as `hwsigner keygen` asks for them."""
    mechanism, size, key_type = _kind(kind)
    names = {Attribute.LABEL: tried.plan.label.encode(), Attribute.ID: own_id(tried, kind + use), **stored}
    names[Attribute.KEY_TYPE] = from_number(key_type)
    return mechanism, {**PUBLIC, **names, **size}, {**PRIVATE, **names}


def generate(
    tried: TriedToken, session: WritingSession, kind: str, *, use: str = "", stored: Template = STORED
) -> KeyPair:
    """Make a key pair, on the token or with another template for the session alone.

    Args:
        tried: the token.
        session: a session that can write.
        kind: `p256`, `rsa2048` or `mldsa44`.
        use: makes its id differ from those of other key pairs of the kind. NSS's softokn deletes them together.
        stored: what says where it is.

    Raises:
        PKCS11Error: the token refused.
        NotAskedError: it gave the key pair another label, so it was deleted: it could not be found later.
    """
    pair = session.generate_key_pair(*templates(tried, kind, use, stored))
    labels = {session.read(one, (Attribute.LABEL,)).get(Attribute.LABEL) for one in pair}
    if labels != {tried.plan.label.encode()}:
        for handle in pair:
            session.destroy(handle)
        raise NotAskedError("the token does not keep labels, so what the trial makes could not be found again")
    return pair


def make(tried: TriedToken, kind: str) -> Made:
    """Return the trial's key pair of a kind, `p256`, `rsa2048` or `mldsa44`, made when it is first needed.

    Raises:
        NotAskedError: nothing may be written, or the token refused.
    """
    if kind not in tried.made:
        if tried.has_written and not tried.made:  # A process before this one has crashed.
            delete_left(tried, tried.plan.label)
        require_writing(tried)
        mechanism, *_ = _kind(kind)
        if tried.module.functions.mechanism(tried.slot, mechanism) is None:
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


def is_ours(label: bytes) -> bool:
    """Whether a label is one that a trial gives."""
    return bool(_OURS.fullmatch(label))


def left_by_trials(session: PKCS11Session, label: str = "") -> dict[int, str]:
    """Return the objects that have a trial's label, or the label of any trial, with what they are."""
    template = {Attribute.LABEL: label.encode()} if label else {}
    found = {}
    for handle in session.find(None, template):
        read = session.read(handle, (Attribute.LABEL,)).get(Attribute.LABEL, b"")
        # The template is not trusted: what is found is deleted.
        if is_ours(read) and (not label or read == label.encode()):
            found[handle] = f"{_CLASSES.get(session.class_of(handle), 'object')} {read.decode()}"
    return found


def delete_left(tried: TriedToken, label: str = "") -> int:
    """Delete the objects with a trial's label, or with that of any trial; return how many are still there.

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


def _kind(kind: str) -> tuple[int, Template, int]:
    algorithm: KeyAlgorithm = "mldsa44" if kind == "mldsa44" else "p256" if kind == "p256" else "rsa2048"
    known = KeyKind.of(algorithm)
    return known.mechanism, known.size, known.key_type


def _read(tried: TriedToken, session: WritingSession, pair: KeyPair, kind: str) -> Made:
    """Return what a new key pair is; raise a NotAskedError if the private key can't be read."""
    key = read_key(session, ObjectClass.PRIVATE_KEY, pair.private)
    if key is None:
        raise NotAskedError("the token does not show the new private key")
    return Made(key, read_key(session, ObjectClass.PUBLIC_KEY, pair.public), own_id(tried, kind))


SESSION_ONLY: Template = {Attribute.TOKEN: FALSE}
