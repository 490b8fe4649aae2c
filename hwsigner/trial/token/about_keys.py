"""Questions about keys that the trial makes (--write), and signatures with one of them or one that the user names.

Keys are made as `hwsigner keygen` makes them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from cryptography.hazmat.primitives.serialization import load_der_public_key

from hwsigner.backends.pkcs11.der import encode_ecdsa_signature
from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, KeyType, ObjectClass
from hwsigner.backends.pkcs11.installing import certificate_template
from hwsigner.backends.pkcs11.keygen import STORED
from hwsigner.backends.pkcs11.objects import ORDER_BYTES, CertificateObject, KeyObject
from hwsigner.backends.pkcs11.pairing import public_keys_of
from hwsigner.backends.pkcs11.writing import FALSE, TRUE
from hwsigner.key import HashName
from hwsigner.key.management import KeyAlgorithm
from hwsigner.key.public_key import verify
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.calls import ECDSA, MECHANISMS, MLDSA, OK, RSA, RSA_SHA256, TriedSession, answer
from hwsigner.trial.token.making import SESSION_ONLY, count_others, delete_left, generate, make, own_id, writing_session
from hwsigner.trial.token.second import look_in_second_process
from hwsigner.trial.token.subject import Ask, MadePair, TriedToken, in_four_threads, yes_or

_SET = ("TOKEN", "PRIVATE", "SIGN", "SENSITIVE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL")
_NOT_SET = ("EXTRACTABLE", "DECRYPT", "UNWRAP", "DERIVE", "MODIFIABLE", "ALWAYS_AUTHENTICATE")
_MESSAGE = b"hwsigner trial: a text that is only signed to see how"
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_KINDS: dict[int, KeyAlgorithm] = {KeyType.EC: "p256", KeyType.RSA: "rsa2048", KeyType.ML_DSA: "mldsa44"}
# A signature that takes longer may wait for a touch, and the user is not to touch the token 20 times.
_SLOW_SECONDS = 1.0


def _makes(tried: TriedToken, kind: KeyAlgorithm) -> str:
    try:
        make(tried, kind)
    except NotAskedError:
        if isinstance(refused := tried.made.get(kind), str):
            return refused
        raise
    return "made"


def _any_made(tried: TriedToken) -> MadePair:
    """Return a key pair that the token could make, an EC one if it can."""
    try:
        return make(tried, "p256")
    except NotAskedError:
        if "p256" not in tried.made:
            raise
        return make(tried, "rsa2048")


def _attributes(tried: TriedToken) -> str:
    """Return which attributes are not as asked, and those that say where the key is from."""
    handle = _any_made(tried).key.handle
    wrong = []
    for name in (*_SET, *_NOT_SET):
        number = getattr(Attribute, name)
        value = tried.session.read(handle, (number,)).get(number)
        if not value or any(value) is not (name in _SET):
            wrong.append(f"CKA_{name} is {str(any(value)).lower() if value else 'not shown'}")
    return ", ".join(wrong) or "none"


def _found_by_names(tried: TriedToken) -> str:
    made = _any_made(tried)
    names = {Attribute.LABEL: tried.plan.label.encode(), Attribute.ID: made.id}
    found = tried.session.find(ObjectClass.PRIVATE_KEY, names)
    return yes_or("" if found == [made.key.handle] else f"{len(found)} are found")


def _changed(tried: TriedToken) -> str:
    """Try to make the key extractable."""
    made = _any_made(tried)
    with tried.own_session(writing=True) as session:
        answered = answer(lambda: session.set(made.key.handle, {Attribute.EXTRACTABLE: TRUE}))
    value = tried.session.read(made.key.handle, (Attribute.EXTRACTABLE,)).get(Attribute.EXTRACTABLE, b"")
    return "it is extractable now" if any(value) else "accepted without effect" if answered == OK else "refused"


def _for_session(tried: TriedToken) -> str:
    """Make a key pair for a session alone, end the session, and look for it."""
    _any_made(tried)
    name = {Attribute.LABEL: tried.plan.label.encode()}
    with writing_session(tried) as session:
        before = set(session.find(None, name))
        try:
            pair = generate(tried, session, "p256", use="session", stored=SESSION_ONLY)
        except PKCS11Error as error:
            return error.name
        if not set(pair) <= set(session.find(None, name)):
            return "not found in its session"
    return yes_or("" if set(tried.session.find(None, name)) <= before else "it is still there")


def _copied(tried: TriedToken) -> str:
    """Copy a private key of the session onto the token, with another id, as a key without an id in its URI is made."""
    _any_made(tried)
    key_id = own_id(tried.plan.label, "copy")
    with writing_session(tried) as session:
        try:
            pair = generate(tried, session, "p256", use="draft", stored=SESSION_ONLY)
            copied = session.copy(pair.private, {Attribute.ID: key_id, **STORED})
        except PKCS11Error as error:
            return error.name
        wanted = {Attribute.ID: key_id, Attribute.EXTRACTABLE: FALSE, Attribute.SENSITIVE: TRUE, Attribute.LOCAL: TRUE}
        read = session.read(copied, wanted)
        session.destroy(copied)
    return yes_or("" if read == wanted else "with other attributes")


def _certificate(tried: TriedToken) -> str:
    """Store a certificate beside the key, and read it back."""
    made = _any_made(tried)
    der = _self_signed()
    template = certificate_template(CertificateObject(der, made.id, tried.plan.label.encode(), 0))
    with writing_session(tried) as session:
        try:
            handle = session.create(template)
        except PKCS11Error as error:
            return error.name
        read = session.read(handle, (Attribute.VALUE, Attribute.ID))
        session.destroy(handle)
    if read.get(Attribute.VALUE) != der:
        return "padded" if read.get(Attribute.VALUE, b"").startswith(der) else "another one"
    return "the same, with its id" if read.get(Attribute.ID) == made.id else "the same, with another id"


def _self_signed() -> bytes:
    """Return a certificate of a key that nobody keeps."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hwsigner trial")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _all_deleted(tried: TriedToken) -> str:
    if not tried.has_written:
        raise NotAskedError("nothing was written")
    left = delete_left(tried, tried.plan.label)
    return yes_or(f"{left} are still there" if left else "")


def _others_are_there(tried: TriedToken) -> str:
    """Count the objects that are not the trial's, and compare that with what there was before it wrote."""
    if tried.others_before is None:
        raise NotAskedError("nothing was written")
    tried.log_in_if_wanted()
    now = count_others(tried, tried.session)
    return yes_or("" if now == tried.others_before else f"{now} instead of {tried.others_before}")


class _ReadyKey(NamedTuple):
    """A private key in a session of its own, with its DER SubjectPublicKeyInfo."""

    tried: TriedToken
    session: TriedSession
    key: KeyObject
    public_key: bytes

    def sign(self, mechanism: int, data: bytes) -> bytes:
        """Return a signature; raise a NotAskedError if there is none."""
        begin = time.monotonic()
        try:
            return self.session.sign(mechanism, self.key.handle, data)
        except PKCS11Error as error:
            raise NotAskedError(f"{MECHANISMS[mechanism]} answers {error.name}") from None
        finally:
            self.tried.is_slow |= time.monotonic() - begin > _SLOW_SECONDS


@contextmanager
def _ready(tried: TriedToken, key_type: int) -> Iterator[_ReadyKey]:
    """Log in, and yield a key of a type: the trial's own, or the one that the user named."""
    tried.log_in_if_wanted()
    if tried.plan.label:
        key = make(tried, _KINDS[key_type]).key
    elif tried.plan.sign_with:
        key = tried.named_key()
        if key.key_type != key_type:
            raise NotAskedError("the named key is of another type")
    else:
        raise NotAskedError("no key may be used: give --write, or --sign-with")
    if key.always_authenticate:
        raise NotAskedError("the key wants the PIN for each signature")
    [public_key] = public_keys_of(tried.session, [key])
    if public_key is None:
        raise NotAskedError("the token does not show the key's public key")
    with tried.own_session() as session:
        yield _ReadyKey(tried, session, key, public_key)


def _size(key: KeyObject, public_key: bytes) -> int:
    """Return the bytes of the order of an EC key's curve."""
    return ORDER_BYTES.get(key.curve) or (load_der_public_key(public_key).key_size + 7) // 8  # type: ignore[union-attr]


def _verifies(public_key: bytes, raw: bytes, hash: HashName = "sha256") -> bool:
    """Return whether a raw ECDSA signature is that of the message's digest, which may be longer than the curve."""
    signature = encode_ecdsa_signature(raw)
    return bool(raw) and not len(raw) % 2 and verify(public_key, _MESSAGE, signature=signature, hash=hash)


def _ecdsa(tried: TriedToken) -> str:
    digest = hashlib.sha256(_MESSAGE).digest()
    with _ready(tried, KeyType.EC) as ready:
        raw = ready.sign(ECDSA, digest)
        size = _size(ready.key, ready.public_key)
    if raw[:1] == b"\x30" and len(raw) != 2 * size:
        return "DER"
    if len(raw) != 2 * size:
        return f"{len(raw)} bytes for a curve of {size}"
    return "r and s, each as long as the order" if _verifies(ready.public_key, raw) else "it does not verify"


def _long_digest(tried: TriedToken) -> str:
    digest = hashlib.sha512(_MESSAGE).digest()
    with _ready(tried, KeyType.EC) as ready:
        size = _size(ready.key, ready.public_key)
        if size > 48:
            raise NotAskedError("no hash is longer than the curve")
        try:
            raw = ready.session.sign(ECDSA, ready.key.handle, digest)
        except PKCS11Error as error:
            return f"it refuses it: {error.name}"
    is_right = _verifies(ready.public_key, raw, "sha512")
    return "it signs the leftmost bits" if is_right else "the signature does not verify"


def _whole_message(tried: TriedToken, *, key_type: int, mechanism: int) -> str:
    with _ready(tried, key_type) as ready:
        signature = ready.sign(mechanism, _MESSAGE)
    return yes_or("" if verify(ready.public_key, _MESSAGE, signature=signature) else "no")


def _rsa_digest_info(tried: TriedToken) -> str:
    with _ready(tried, KeyType.RSA) as ready:
        one = ready.sign(RSA_SHA256, _MESSAGE)
        other = ready.sign(RSA, _DIGEST_INFO + hashlib.sha256(_MESSAGE).digest())
    return yes_or("" if one == other else "no")


def _after_second_process(tried: TriedToken) -> str:
    digest = hashlib.sha256(_MESSAGE).digest()
    with _ready(tried, KeyType.EC) as ready:
        look_in_second_process(tried)
        answered = answer(lambda: ready.session.sign(ECDSA, ready.key.handle, digest))
    return "yes" if answered == OK else answered


def _begun_twice(tried: TriedToken) -> str:
    with _ready(tried, KeyType.EC) as ready:
        ready.session.begin_signature(ready.key.handle, ECDSA)
        return answer(lambda: ready.session.begin_signature(ready.key.handle, ECDSA))


def _in_threads(tried: TriedToken) -> str:
    digest = hashlib.sha256(_MESSAGE).digest()
    if tried.module.functions.initialised != "for threads":
        raise NotAskedError("the module takes calls of one thread")
    if tried.is_slow and not tried.plan.label:
        raise NotAskedError("a signature takes over a second, as if it waits for a touch")
    with _ready(tried, KeyType.EC) as ready:

        def work() -> list[str]:
            with tried.own_session() as session:
                made = [ready._replace(session=session).sign(ECDSA, digest) for _ in range(5)]
            return ["does not verify" for raw in made if not _verifies(ready.public_key, raw)]

        return in_four_threads(work)


ASKS: Mapping[str, Ask] = {
    **{f"keygen.{kind}": partial(_makes, kind=kind) for kind in _KINDS.values()},
    "keygen.attributes": _attributes,
    "keygen.public": lambda tried: yes_or("" if (made := _any_made(tried).public) and made.public_key else "no"),
    "keygen.found": _found_by_names,
    "write.extractable": _changed,
    "write.session-key": _for_session,
    "write.copy": _copied,
    "write.certificate": _certificate,
    "delete.all": _all_deleted,
    "delete.others": _others_are_there,
    "sign.second-process": _after_second_process,
    "sign.begun-twice": _begun_twice,
    "sign.ecdsa": _ecdsa,
    "sign.long-digest": _long_digest,
    "sign.rsa": partial(_whole_message, key_type=KeyType.RSA, mechanism=RSA_SHA256),
    "sign.rsa-digest-info": _rsa_digest_info,
    "sign.mldsa": partial(_whole_message, key_type=KeyType.ML_DSA, mechanism=MLDSA),
    "sign.threads": _in_threads,
}
