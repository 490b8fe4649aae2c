"""Making a key pair on a token that can sign, can't be copied and can't be changed; and reading back that it is so."""

from __future__ import annotations

import shlex
from contextlib import suppress
from typing import NamedTuple

from hwsigner._pins import PinSource
from hwsigner._system import notices
from hwsigner._system.notices import quiet
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.der import key_id
from hwsigner.backends.pkcs11.description import describe
from hwsigner.backends.pkcs11.errors import CANT_COPY, CANT_MAKE, PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, KeyType, ObjectClass, PKCS11Session, from_number
from hwsigner.backends.pkcs11.module import token_uri
from hwsigner.backends.pkcs11.objects import ORDER_BYTES, KeyObject, read_key
from hwsigner.backends.pkcs11.pins import token_name
from hwsigner.backends.pkcs11.search import FoundToken
from hwsigner.backends.pkcs11.stored import Stored, destroy, find_stored
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.backends.pkcs11.unfinished import MakingMark
from hwsigner.backends.pkcs11.writing import FALSE, TRUE, KeyPair, Template, WritingSession, writing
from hwsigner.errors import SigningKeyError, UnsupportedKeyError, UsageError
from hwsigner.key.management import KeyAlgorithm, KeyDescription, KeyRequest

_CKM_RSA_PKCS_KEY_PAIR_GEN, _CKM_ML_DSA_KEY_PAIR_GEN, _CKM_EC_KEY_PAIR_GEN = 0x0000, 0x001C, 0x1040
_CKF_GENERATE, _CKF_GENERATE_KEY_PAIR = 0x8000, 0x10000
_EXPONENT = b"\1\0\1"
_CURVES = dict(zip(("p256", "p384", "p521"), ORDER_BYTES, strict=True))
_PARAMETER_SETS: dict[KeyAlgorithm, int] = {"mldsa44": 1, "mldsa65": 2, "mldsa87": 3}  # CKP_ML_DSA_44 and so on.
_FAMILIES = {KeyType.EC: "EC", KeyType.RSA: "RSA", KeyType.ML_DSA: "ML-DSA"}
# Neither CKA_VERIFY nor CKA_ENCRYPT: libtpm2-pkcs11 sets them the wrong way round, and refuses other values.
PUBLIC: Template = {
    Attribute.CLASS: from_number(ObjectClass.PUBLIC_KEY),
    **dict.fromkeys((Attribute.PRIVATE, Attribute.WRAP, Attribute.VERIFY_RECOVER), FALSE),
}
PRIVATE: Template = {
    Attribute.CLASS: from_number(ObjectClass.PRIVATE_KEY),
    **dict.fromkeys((Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.SIGN), TRUE),
    **dict.fromkeys((Attribute.EXTRACTABLE, Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE), FALSE),
    Attribute.SIGN_RECOVER: FALSE,
}
# What a token sets by itself for a key that was made in it.
_ORIGIN = dict.fromkeys((Attribute.LOCAL, Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE), TRUE)
STORED: Template = {Attribute.TOKEN: TRUE, Attribute.MODIFIABLE: FALSE}
_NAMES = {number: f"CKA_{name}" for name, number in vars(Attribute).items() if isinstance(number, int)}
_UNPROVEN = _NAMES[Attribute.LOCAL]
_LOST_IN_COPIES = {_NAMES[Attribute.ALWAYS_SENSITIVE], _NAMES[Attribute.NEVER_EXTRACTABLE]}
_OTHER = "Choose another --algorithm, or use the token's own tool"


class KeyKind(NamedTuple):
    """A kind of key, as a token is asked for it."""

    key_type: int
    mechanism: int  # Generates the key pair.
    bits: int  # 0 for ML-DSA.
    size: Template  # The attributes of the public key that say what to make.

    @classmethod
    def of(cls, algorithm: KeyAlgorithm) -> KeyKind:
        """Return the kind for an algorithm."""
        if algorithm in _CURVES:
            curve = {Attribute.EC_PARAMS: _CURVES[algorithm]}
            return cls(KeyType.EC, _CKM_EC_KEY_PAIR_GEN, int(algorithm.removeprefix("p")), curve)
        if algorithm in _PARAMETER_SETS:
            parameters = {Attribute.PARAMETER_SET: from_number(_PARAMETER_SETS[algorithm])}
            return cls(KeyType.ML_DSA, _CKM_ML_DSA_KEY_PAIR_GEN, 0, parameters)
        bits = int(algorithm.removeprefix("rsa"))
        modulus = {Attribute.MODULUS_BITS: from_number(bits), Attribute.PUBLIC_EXPONENT: _EXPONENT}
        return cls(KeyType.RSA, _CKM_RSA_PKCS_KEY_PAIR_GEN, bits, modulus)

    def matches(self, key: KeyObject) -> bool:
        """Return whether a public key is of this kind."""
        parameters = from_number(key.parameter_set) if key.parameter_set else None
        return (
            key.curve == self.size.get(Attribute.EC_PARAMS, b"")
            and key.bits in (0, self.bits)
            and parameters == self.size.get(Attribute.PARAMETER_SET)
        )

    @property
    def family(self) -> str:
        """The kind without the size."""
        return _FAMILIES[self.key_type]


class _PairToMake(NamedTuple):
    """A key pair to make: its kind, and the attributes of its objects, without those in `STORED`.

    An empty id stands for the SHA-1 of the public key.
    """

    kind: KeyKind
    label: bytes
    id: bytes
    public: Template
    private: Template


def generate_key(found: FoundToken, uri: KeyURI, pins: PinSource, request: KeyRequest) -> KeyDescription:
    """Make a key pair on a token; see `hwsigner.key.management.generate_key`.

    If hwsigner is killed meanwhile, the next attempt returns the key pair that is there if it is whole and as asked, or
    deletes its parts and makes another one.
    """
    plan = _planned(uri, request)
    _require_mechanism(found, plan, request)
    with writing(found, uri, pins, "could not make the key") as (token, session):
        mark = MakingMark(token, plan.label)
        pair = mark.clear(session)
        is_new = pair is None or bool(_differences(session, pair, plan))
        if pair is None or is_new:
            _refuse_existing(token, session, plan, uri)
            with notices.waiting(f"{token.name} is making the key, which can take minutes"), quiet():
                pair = _make(token, session, plan, mark)
        key = read_key(session, ObjectClass.PRIVATE_KEY, pair.private)
        wrong = _differences(session, pair, plan)
        is_accepted = is_new and request.accept_unproven and wrong == [_UNPROVEN]
        if key is None or (wrong and not is_accepted):
            message = f"{token.name} made a key that is not as asked ({', '.join(wrong)})"
            _remove(token, session, pair, plan, message)
            mark.remove()
            raise SigningKeyError(f"{message}, so it was removed again", _hint(wrong, plan))
        mark.remove()
        return describe(token, key, uri)


def _planned(uri: KeyURI, request: KeyRequest) -> _PairToMake:
    request.require_only("always_authenticate", "accept_unproven", kind="keys on a PKCS #11 token")
    label, key_id = uri.path.get("object", b""), uri.path.get("id", b"")
    if not label:
        raise UsageError(f"{uri.name} has no label for the new key", "Add object=LABEL to the key URI")
    kind = KeyKind.of(request.algorithm)
    names = {Attribute.LABEL: label, Attribute.KEY_TYPE: from_number(kind.key_type)}
    names |= {Attribute.ID: key_id} if key_id else {}
    careful = {Attribute.ALWAYS_AUTHENTICATE: TRUE} if request.always_authenticate else {}
    return _PairToMake(kind, label, key_id, {**PUBLIC, **names, **kind.size}, {**PRIVATE, **names, **careful})


def _require_mechanism(found: FoundToken, plan: _PairToMake, request: KeyRequest) -> None:
    """Check that a token makes such keys; raise an UnsupportedKeyError if not."""
    info = found.module.functions.mechanism(found.info.slot, plan.kind.mechanism)
    name = token_name(found.info)
    family = plan.kind.family
    generates = _CKF_GENERATE_KEY_PAIR
    if plan.kind.key_type == KeyType.ML_DSA:
        generates |= _CKF_GENERATE  # NSS has it instead.
    if info is None or not info.flags & generates:
        raise UnsupportedKeyError(f"{name} makes no {family} keys", _OTHER)
    # The sizes of ML-DSA are in bytes (PKCS #11 3.2), and not every token says them so.
    if plan.kind.bits and not info.smallest <= plan.kind.bits <= info.largest:
        sizes = f"{family} keys of {info.smallest} to {info.largest} bits"
        raise UnsupportedKeyError(f"{name} makes {sizes}, so not {request.algorithm}", _OTHER)


def _refuse_existing(token: OpenToken, session: PKCS11Session, plan: _PairToMake, uri: KeyURI) -> None:
    """Raise a SigningKeyError if a key or certificate has the label or the id of the new key."""
    there = find_stored(session, KeyURI("pkcs11", {"object": plan.label}))
    if plan.id:
        there += find_stored(session, KeyURI("pkcs11", {"id": plan.id}))
    if there:
        listed = ", ".join(dict.fromkeys(map(str, there)))
        names = {"id": there[0].object.id, "object": there[0].object.label}
        place = token_uri(token.info, uri)
        own = place.changed(path={**place.path, **{name: value for name, value in names.items() if value}})
        delete = f"hwsigner delete {shlex.quote(str(own))}"
        hint = f"Choose another label and id for the new key, or if no program uses what is there, run {delete}"
        raise SigningKeyError(f"{token.name} already has: {listed}", hint)


def _make(token: OpenToken, session: WritingSession, plan: _PairToMake, mark: MakingMark) -> KeyPair:
    """Make the key pair, and mark it before anything of it is on the token.

    Its id can't be changed later, but may depend on it. So if the URI gives none, the key pair is made for this PKCS
    #11 session only, and copied with its id.
    """
    try:
        if plan.id:
            mark.write(plan.id)
            return session.generate_key_pair(plan.kind.mechanism, {**plan.public, **STORED}, {**plan.private, **STORED})
        draft = session.generate_key_pair(plan.kind.mechanism, plan.public, plan.private)
        return _stored(token, session, draft, mark)
    except PKCS11Error as error:
        with suppress(PKCS11Error, SigningKeyError):
            if mark.clear(session) is None:
                mark.remove()
        if error.code in CANT_MAKE:
            raise UnsupportedKeyError(f"{token.name} can't make such a key: {error}", _OTHER) from error
        if error.code in CANT_COPY and not plan.id:
            message = f"{token.name} can't give a key the id of its public key: {error}"
            raise UnsupportedKeyError(message, "Add an id to the key URI, such as id=%01") from error
        raise


def _stored(token: OpenToken, session: WritingSession, draft: KeyPair, mark: MakingMark) -> KeyPair:
    """Copy a key pair of the session onto the token, with the id of its public key. The session's ends with it.

    The public key is first: alone, it is known to be a part.
    """
    shown = read_key(session, ObjectClass.PUBLIC_KEY, draft.public)
    if shown is None or shown.public_key is None:
        raise UnsupportedKeyError(f"{token.name} does not show the public key of a new key", "Use another token")
    # SoftHSM sets them in turn: nothing after CKA_MODIFIABLE.
    changes = {Attribute.ID: key_id(shown.public_key), **STORED}
    mark.write(changes[Attribute.ID])
    try:
        public = session.copy(draft.public, changes)
        try:
            return KeyPair(public, session.copy(draft.private, changes))
        except BaseException:
            session.destroy(public)
            raise
    finally:
        for handle in draft:  # libtpm2-pkcs11 keeps on the token what is made for a session.
            with suppress(PKCS11Error):
                session.destroy(handle)


def _differences(session: PKCS11Session, pair: KeyPair, plan: _PairToMake) -> list[str]:
    """Return in what a new key pair differs from its plan."""
    public = read_key(session, ObjectClass.PUBLIC_KEY, pair.public)
    if public is None or public.public_key is None:
        return ["its public key can't be read"]
    names = {Attribute.LABEL: plan.label, Attribute.ID: plan.id or key_id(public.public_key)}
    wanted = {**plan.private, **STORED, **_ORIGIN, **names}
    values = session.read(pair.private, wanted)
    wrong = [_NAMES[name] for name, value in wanted.items() if values.get(name, FALSE) != value]
    if (public.label, public.id) != tuple(names.values()):
        wrong.append("the names of its public key")
    if not plan.kind.matches(public):
        wrong.append("its size")
    return wrong


def _hint(wrong: list[str], plan: _PairToMake) -> str:
    """Return what to do about a new key that differs from its plan."""
    if not plan.id and _LOST_IN_COPIES & set(wrong) and {_UNPROVEN, *_LOST_IN_COPIES} >= set(wrong):
        return "Add an id to the key URI, such as id=%01: without one, the key is a copy of the one that was made"
    if wrong == [_UNPROVEN]:
        return "If it says so of all its keys, as NSS does, run keygen --accept-unproven. Otherwise use another token"
    return "Use another token, or make the key with this one's own tool"


def _remove(token: OpenToken, session: WritingSession, pair: KeyPair, plan: _PairToMake, message: str) -> None:
    """Remove a key pair that is not as asked, as the message says; raise a SigningKeyError if it may still be there."""
    try:
        for kind, handle in ((ObjectClass.PRIVATE_KEY, pair.private), (ObjectClass.PUBLIC_KEY, pair.public)):
            destroy(token, session, Stored(kind, KeyObject(handle, -1, plan.id, plan.label)))
    except SigningKeyError as error:
        raise SigningKeyError(f"{message}, and it may be left there: {error.message}", error.hint) from error
