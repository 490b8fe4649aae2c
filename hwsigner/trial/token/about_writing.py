"""Questions that need --write: what a key is like that was made as `hwsigner keygen` makes it, and what is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass
from hwsigner.backends.pkcs11.installing import certificate_template
from hwsigner.backends.pkcs11.keygen import STORED
from hwsigner.backends.pkcs11.objects import CertificateObject
from hwsigner.backends.pkcs11.writing import FALSE, TRUE
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.calls import OK
from hwsigner.trial.token.making import SESSION_ONLY, count_others, delete_left, generate, make, own_id, writing_session
from hwsigner.trial.token.subject import Ask, MadePair, TriedToken, yes_or

_SET = ("TOKEN", "PRIVATE", "SIGN", "SENSITIVE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL")
_NOT_SET = ("EXTRACTABLE", "DECRYPT", "UNWRAP", "DERIVE", "MODIFIABLE", "ALWAYS_AUTHENTICATE")


def _makes(tried: TriedToken, kind: str) -> str:
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
    with tried.raw_session(writing=True) as session:
        code = tried.calls.set(session, made.key.handle, {Attribute.EXTRACTABLE: TRUE})
    value = tried.session.read(made.key.handle, (Attribute.EXTRACTABLE,)).get(Attribute.EXTRACTABLE, b"")
    return "it is extractable now" if any(value) else "accepted without effect" if code == OK else "refused"


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


ASKS: Mapping[str, Ask] = {
    **{f"keygen.{kind}": partial(_makes, kind=kind) for kind in ("p256", "rsa2048", "mldsa44")},
    "keygen.attributes": _attributes,
    "keygen.public": lambda tried: yes_or("" if (made := _any_made(tried).public) and made.public_key else "no"),
    "keygen.found": _found_by_names,
    "write.extractable": _changed,
    "write.session-key": _for_session,
    "write.copy": _copied,
    "write.certificate": _certificate,
    "delete.all": _all_deleted,
    "delete.others": _others_are_there,
}
