"""Questions that need --write: what a key is like that was made as `hwsigner keygen` makes it, and what is deleted."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, from_number
from hwsigner.backends.pkcs11.installing import certificate_template
from hwsigner.backends.pkcs11.keygen import STORED
from hwsigner.backends.pkcs11.objects import CertificateObject
from hwsigner.backends.pkcs11.writing import FALSE, TRUE, KeyPair, WritingSession
from hwsigner.trial.questions import NotAskedError, choice, observation
from hwsigner.trial.token.calls import OK, means_lost, named
from hwsigner.trial.token.making import (
    SESSION_ONLY,
    count_others,
    delete_left,
    generate,
    make,
    own_id,
    writing_session,
)
from hwsigner.trial.token.subject import Made, TriedToken
from hwsigner.trial.token.tables import TokenQuestion, TokenRow, spec, yes_or

_KEYGEN = "hwsigner/backends/pkcs11/keygen.py"
_FLAGS = {
    "token": (Attribute.TOKEN, True),
    "private": (Attribute.PRIVATE, True),
    "sign": (Attribute.SIGN, True),
    "decrypt": (Attribute.DECRYPT, False),
    "unwrap": (Attribute.UNWRAP, False),
    "derive": (Attribute.DERIVE, False),
    "sensitive": (Attribute.SENSITIVE, True),
    "extractable": (Attribute.EXTRACTABLE, False),
    "always-sensitive": (Attribute.ALWAYS_SENSITIVE, True),
    "never-extractable": (Attribute.NEVER_EXTRACTABLE, True),
    "local": (Attribute.LOCAL, True),
    "modifiable": (Attribute.MODIFIABLE, False),
    "always-authenticate": (Attribute.ALWAYS_AUTHENTICATE, False),
}
_CHOSEN = ("sensitive", "extractable", "token", "private", "sign", "decrypt", "unwrap", "derive", "modifiable")
_NAMES = {"p256": "P-256", "rsa2048": "RSA-2048", "mldsa44": "ML-DSA-44"}


def _makes(tried: TriedToken, kind: str) -> str:
    try:
        make(tried, kind)
    except NotAskedError:
        if isinstance(refused := tried.made.get(kind), str):
            return refused
        raise
    return "made"


def _any_made(tried: TriedToken) -> Made:
    """Return a key pair that the token could make, an EC one if it can."""
    try:
        return make(tried, "p256")
    except NotAskedError:
        if "p256" not in tried.made:
            raise
        return make(tried, "rsa2048")


def _flag(tried: TriedToken, number: int) -> str:
    made = _any_made(tried)
    value = tried.session.read(made.key.handle, (number,)).get(number)
    return "not shown" if not value else "true" if any(value) else "false"


def _label(tried: TriedToken) -> str:
    made = _any_made(tried)
    labels = {made.key.label, made.public.label if made.public else b""}
    return yes_or("" if labels == {tried.plan.label.encode()} else "no")


def _id(tried: TriedToken) -> str:
    made = _any_made(tried)
    return yes_or("" if {made.key.id, made.public.id if made.public else b""} == {made.id} else "no")


def _public(tried: TriedToken) -> str:
    made = _any_made(tried)
    return yes_or("" if made.public and made.public.public_key else "no")


def _public_without_login(tried: TriedToken) -> str:
    made = _any_made(tried)
    if made.public is None:
        raise NotAskedError("the token has no object for the public key")
    value = tried.session.read(made.public.handle, (Attribute.PRIVATE,)).get(Attribute.PRIVATE)
    return "not shown" if not value else yes_or("no" if any(value) else "")


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
    key_id = own_id(tried, "copy")
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


def _same_names(tried: TriedToken) -> str:
    _any_made(tried)
    with writing_session(tried) as session:
        first = generate(tried, session, "p256", use="same")
        try:
            second = generate(tried, session, "p256", use="same")
        except PKCS11Error as error:
            return f"refused: {error.name}"
        finally:
            _destroy(session, first)
        _destroy(session, second)
    return "made"


def _destroy(session: WritingSession, pair: KeyPair) -> None:
    for handle in pair:
        with suppress(PKCS11Error):  # One may be gone with the other.
            session.destroy(handle)


def _in_read_only_session(tried: TriedToken) -> str:
    """Make a data object on the token in a session that may not."""
    _any_made(tried)
    template = {
        Attribute.CLASS: from_number(0),  # CKO_DATA
        Attribute.TOKEN: TRUE,
        Attribute.LABEL: tried.plan.label.encode(),
        Attribute.VALUE: b"trial",
    }
    with tried.raw_session() as session:
        return named(tried.calls.create(session, template))


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


def _after_deletion(tried: TriedToken) -> str:
    """Delete a public key, and read it by its old handle."""
    _any_made(tried)
    with writing_session(tried) as session:
        try:
            pair = generate(tried, session, "p256", use="deleted")
        except PKCS11Error as error:
            raise NotAskedError(f"no second key pair: {error.name}") from None
        _destroy(session, pair)
    with tried.raw_session() as reading:
        code, _ = tried.calls.lengths(reading, pair.private, (Attribute.CLASS,))
    return "the key is looked for again" if means_lost(code) else named(code)


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


def _flag_question(name: str) -> TokenQuestion:
    number, expected = _FLAGS[name]
    return TokenRow(f"keygen.{name}", f"What is CKA_{name.upper().replace('-', '_')} of a new private key?").expects(
        "true" if expected else "false",
        choice("hwsigner asks for it") if name in _CHOSEN else spec("4.9 (private key objects)"),
        partial(_flag, number=number),
        f"{_KEYGEN}: _differences",
    )


QUESTIONS = (
    *(
        TokenRow(
            f"keygen.{kind}", f"Does the token make a key pair of {name} with the attributes that hwsigner asks for?"
        ).expects(
            "made",
            spec("5.18.2 (C_GenerateKeyPair)"),
            partial(_makes, kind=kind),
            f"{_KEYGEN}: generate_key",
            "docs/reference/keygen.md",
        )
        for kind, name in _NAMES.items()
    ),
    *map(_flag_question, _FLAGS),
    TokenRow("keygen.label", "Have both keys of a new pair the label that they were to have?").expects(
        "yes", spec("4.4 (storage objects)"), _label, f"{_KEYGEN}: _differences"
    ),
    TokenRow("keygen.id", "Have both keys of a new pair the id that they were to have?").expects(
        "yes", spec("4.7 (key objects)"), _id, f"{_KEYGEN}: _differences"
    ),
    TokenRow("keygen.public", "Does the object of a new public key show it whole?").expects(
        "yes", spec("4.8 (public key objects)"), _public, f"{_KEYGEN}: _stored"
    ),
    TokenRow(
        "keygen.public-without-login", "Is a new public key shown without a login (CKA_PRIVATE is false)?"
    ).expects("yes", choice("hwsigner asks for it"), _public_without_login, f"{_KEYGEN}: PUBLIC"),
    TokenRow("keygen.found", "Does a search by label and id find the new private key alone?").expects(
        "yes", spec("5.7.7 (C_FindObjectsInit)"), _found_by_names, "hwsigner/backends/pkcs11/unfinished.py: MakingMark"
    ),
    TokenRow("keygen.same-names", "What comes of a second key pair with the same label and id?").expects(
        "made", observation("SoftHSM 2.6"), _same_names, f"{_KEYGEN}: _refuse_existing"
    ),
    TokenRow(
        "write.extractable", "What does the token answer if a key that can't be extracted is to become extractable?"
    ).expects(
        "refused",
        spec("4.9 (CKA_EXTRACTABLE can't become true)"),
        _changed,
        "hwsigner/backends/pkcs11/description.py: _copy_guards",
    ),
    TokenRow("write.session-key", "Is a key pair gone that was made for a session alone, after that session?").expects(
        "yes", spec("PKCS #11 2.20, 6.7 (session objects)"), _for_session, f"{_KEYGEN}: _make"
    ),
    TokenRow(
        "write.copy",
        "Can a private key of a session be copied onto the token with another id and its other attributes?",
    ).expects("yes", spec("5.7.2 (C_CopyObject)"), _copied, f"{_KEYGEN}: _stored"),
    TokenRow("write.read-only", "What does C_CreateObject answer for a token's object in a read-only session?").expects(
        "CKR_SESSION_READ_ONLY",
        spec("5.7.1 (C_CreateObject)"),
        _in_read_only_session,
        "hwsigner/backends/pkcs11/writing.py: WritingSession",
    ),
    TokenRow("write.certificate", "Which certificate is read after one was stored beside a key?").expects(
        "the same, with its id",
        spec("4.6.3 (X.509 certificates)"),
        _certificate,
        "hwsigner/backends/pkcs11/installing.py: install_certificate",
    ),
    TokenRow("write.deleted-handle", "What does hwsigner make of the answer for a key that was deleted?").expects(
        "the key is looked for again",
        spec("5.7.5 (C_GetAttributeValue)"),
        _after_deletion,
        "hwsigner/backends/pkcs11/errors.py: SessionLostError",
    ),
)
DELETION = (
    TokenRow("delete.all", "Is all gone that the trial made, after C_DestroyObject?").expects(
        "yes", spec("5.7.3 (C_DestroyObject)"), _all_deleted, "hwsigner/backends/pkcs11/stored.py: destroy"
    ),
    TokenRow("delete.others", "Are as many other objects there as before the trial wrote?").expects(
        "yes",
        choice("the trial deletes nothing but what it made"),
        _others_are_there,
        "hwsigner/trial/token/making.py: delete_left",
    ),
)
