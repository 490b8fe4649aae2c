"""Questions about the objects on the token: what is shown when, and in which form. None changes anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hwsigner.backends.pkcs11.functions import Attribute, KeyType
from hwsigner.backends.pkcs11.objects import KeyObject
from hwsigner.backends.pkcs11.pairing import public_keys_of
from hwsigner.trial.asking import numbered
from hwsigner.trial.questions import NotAskedError, choice
from hwsigner.trial.token.calls import OK, means_lost, named
from hwsigner.trial.token.subject import Shown, TriedToken
from hwsigner.trial.token.tables import FOUR_MODULES, TokenRow, spec, yes_or

_OBJECTS = "hwsigner/backends/pkcs11/objects.py"
_PAIRING = "hwsigner/backends/pkcs11/pairing.py: public_keys_of"
_SESSION = "hwsigner/backends/pkcs11/functions.py: PKCS11Session"
_NO_OBJECT = 0x7FFFFF01
_READ_IN_PART = (OK, 0x11, 0x12, 0x150)
_PRIVATE_EXPONENT = 0x123


def _share(before: int, after: int) -> str:
    return "all" if before >= after else "none" if not before else f"{before} of {after}"


def _compared(tried: TriedToken, what: str) -> str:
    before, after = len(getattr(tried.before, what)), len(getattr(tried.after_login(), what))
    if not after:
        raise NotAskedError(
            f"the token has no {what.replace('privates', 'private keys').replace('publics', 'public keys')}"
        )
    return _share(before, after)


def _after(tried: TriedToken) -> Shown:
    shown = tried.after_login()
    counts = (len(shown.privates), "private key", ""), (len(shown.publics), "public key", "")
    listed = [numbered(*each) for each in (*counts, (len(shown.certificates), "certificate", ""))]
    tried.measured["objects"] = ", ".join(listed)
    return shown


def _privates(tried: TriedToken) -> Sequence[KeyObject]:
    if not (found := _after(tried).privates):
        raise NotAskedError("the token has no private keys")
    return found


def _names_differ(tried: TriedToken) -> str:
    counts = Counter((one.label, one.id) for one in _privates(tried))
    again = sum(number - 1 for number in counts.values())
    return yes_or(f"{again} have those of another one" if again else "")


def _ids_differ(tried: TriedToken) -> str:
    counts = Counter(one.id for one in _privates(tried))
    again = sum(number - 1 for number in counts.values())
    return yes_or(f"{again} have that of another one" if again else "")


def _have_ids(tried: TriedToken) -> str:
    without = sum(not one.id for one in _privates(tried))
    return yes_or(f"{without} have none" if without else "")


def _each_shows(tried: TriedToken, name: int) -> str:
    found = _privates(tried)
    lacking = sum(name not in tried.session.read(one.handle, (name,)) for one in found)
    return yes_or(f"{lacking} of {len(found)} do not" if lacking else "")


def _always_authenticate(tried: TriedToken) -> str:
    found = [one for one in _privates(tried) if one.always_authenticate]
    tried.measured["keys that want the PIN for each signature"] = str(len(found))
    return _each_shows(tried, Attribute.ALWAYS_AUTHENTICATE)


def _have_public_keys(tried: TriedToken) -> str:
    found = list(_privates(tried))
    lacking = sum(public is None for public in public_keys_of(tried.session, found))
    return yes_or(f"{lacking} of {len(found)} have none" if lacking else "")


def _certificates_share_ids(tried: TriedToken) -> str:
    found = _after(tried)
    keys = dict(zip(public_keys_of(tried.session, found.privates), found.privates, strict=True))
    pairs = [(one, keys[one.public_key]) for one in found.certificates if one.public_key and one.public_key in keys]
    if not pairs:
        raise NotAskedError("no certificate is that of a private key on the token")
    other = sum(one.id != key.id for one, key in pairs)
    return yes_or(f"{other} of {len(pairs)} have another one" if other else "")


def _secrets(tried: TriedToken) -> str:
    """Ask for the lengths of secrets alone, so that none is read."""
    shown = 0
    with tried.raw_session() as session:
        for one in _privates(tried):
            name = _PRIVATE_EXPONENT if one.key_type == KeyType.RSA else Attribute.VALUE
            _, lengths = tried.calls.lengths(session, one.handle, (name,))
            shown += bool(lengths.get(name))
    return f"{numbered(shown, 'key')} can be read" if shown else "no"


def _some_object(tried: TriedToken) -> int:
    found = tried.session.find(None, {})
    if not found:
        raise NotAskedError("the token shows no object")
    return found[0]


def _attribute_order(tried: TriedToken) -> str:
    names = (Attribute.CLASS, Attribute.LABEL, Attribute.TOKEN, Attribute.PRIVATE)
    found = _some_object(tried)
    one, other = tried.session.read(found, names), tried.session.read(found, names[::-1])
    return yes_or("" if one == other else "no")


def _unknown_attribute(tried: TriedToken) -> str:
    with tried.raw_session() as session:
        code, lengths = tried.calls.lengths(session, _some_object(tried), (Attribute.CLASS, Attribute.MODULUS_BITS + 7))
    if code not in _READ_IN_PART:
        return named(code)
    return "the others are read" if lengths[Attribute.CLASS] else "none is read"


def _unknown_object(tried: TriedToken) -> str:
    with tried.raw_session() as session:
        code, _ = tried.calls.lengths(session, _NO_OBJECT, (Attribute.CLASS,))
    return "the object is looked for again" if means_lost(code) else named(code)


def _unknown_key(tried: TriedToken) -> str:
    from hwsigner.trial.token.about_token import ECDSA, RSA

    listed = [one for one in (ECDSA, RSA) if tried.module.functions.can_sign_with(tried.slot, one)]
    if not listed:
        raise NotAskedError("the token lists no mechanism to sign with")
    with tried.raw_session() as session:
        code = tried.calls.begin_signature(session, listed[0], _NO_OBJECT)
    return "the key is looked for again" if means_lost(code) else named(code)


def _publics(tried: TriedToken) -> list[bytes | None]:
    found = [one for one in tried.before.publics if one.key_type == KeyType.EC]
    if not found:
        raise NotAskedError("the token shows no public EC key without a login")
    return [tried.session.read(one.handle, (Attribute.EC_POINT,)).get(Attribute.EC_POINT) for one in found]


def point_form(point: bytes | None) -> str:
    """Return the form of a CKA_EC_POINT, in words."""
    if not point:
        return "not shown"
    inner = point
    is_der = (
        point[0] == 0x04
        and len(point) > 3
        and (point[1] == len(point) - 2 or point[1:3] == bytes([0x81, len(point) - 3]))
    )
    if is_der:
        inner = point[2:] if point[1] < 0x80 else point[3:]
    form = {2: "compressed", 3: "compressed", 4: "uncompressed"}.get(inner[0], "of another form")
    return f"{'DER' if is_der else 'no DER'}, {form}"


def parameters_form(parameters: bytes | None) -> str:
    """Return the form of CKA_EC_PARAMS, in words."""
    if not parameters:
        return "not shown"
    return {0x06: "the OID of a curve", 0x13: "the name of a curve", 0x30: "all parameters"}.get(
        parameters[0], f"tag {parameters[0]:#x}"
    )


def _points(tried: TriedToken) -> str:
    return " or ".join(sorted({point_form(one) for one in _publics(tried)}))


def _parameters(tried: TriedToken) -> str:
    _publics(tried)
    handles = [one.handle for one in tried.before.publics if one.key_type == KeyType.EC]
    read = [tried.session.read(one, (Attribute.EC_PARAMS,)).get(Attribute.EC_PARAMS) for one in handles]
    return " or ".join(sorted({parameters_form(one) for one in read}))


QUESTIONS = (
    TokenRow(
        "object.unknown", "What does hwsigner make of C_GetAttributeValue's answer for a handle that no object has?"
    ).expects(
        "the object is looked for again",
        spec("5.7.5 (C_GetAttributeValue)"),
        _unknown_object,
        "hwsigner/backends/pkcs11/errors.py: SessionLostError",
    ),
    TokenRow(
        "object.unknown-key", "What does hwsigner make of C_SignInit's answer for a handle that no key has?"
    ).expects(
        "the key is looked for again",
        spec("5.13.1 (C_SignInit)"),
        _unknown_key,
        "hwsigner/backends/pkcs11/errors.py: SessionLostError",
    ),
    TokenRow(
        "object.attribute-order", "Has the order of the attributes that are asked for no influence on their values?"
    ).expects("yes", spec("5.7.5 (C_GetAttributeValue)"), _attribute_order, f"{_SESSION}.read"),
    TokenRow(
        "object.unknown-attribute", "What is read if an object lacks one of the attributes that are asked for?"
    ).expects("the others are read", spec("5.7.5 (C_GetAttributeValue)"), _unknown_attribute, f"{_SESSION}.read"),
    TokenRow("object.ec-point", "In which form is CKA_EC_POINT?").expects(
        "DER, uncompressed", spec("6.3.3 (EC public keys)"), _points, "hwsigner/backends/pkcs11/der.py: raw_point"
    ),
    TokenRow("object.ec-params", "In which form is CKA_EC_PARAMS?").expects(
        "the OID of a curve",
        spec("6.3.3 (EC public keys)"),
        _parameters,
        "hwsigner/backends/pkcs11/der.py: named_curve",
    ),
    TokenRow("login.certificates", "How many of the certificates are shown without a login?").expects(
        "all",
        choice("hwsigner looks for certificates without a login first"),
        lambda tried: _compared(tried, "certificates"),
        "hwsigner/backends/pkcs11/__init__.py: find_certificates",
    ),
    TokenRow("login.public-keys", "How many of the public keys are shown without a login?").expects(
        "all",
        FOUR_MODULES,
        lambda tried: _compared(tried, "publics"),
        "hwsigner/backends/pkcs11/search.py: choose_token",
    ),
    TokenRow("login.private-keys", "How many of the private keys are shown without a login?").expects(
        "none",
        spec("4.9 (CKA_PRIVATE of private keys)"),
        lambda tried: _compared(tried, "privates"),
        "hwsigner/backends/pkcs11/search.py: find_any_key",
    ),
    TokenRow("key.names", "Do the private keys differ in their label or id?").expects(
        "yes", choice("a key URI names a key by these"), _names_differ, "hwsigner/backends/pkcs11/search.py: _only_key"
    ),
    TokenRow("key.ids", "Do the private keys differ in their id?").expects(
        "yes", spec("4.7 (CKA_ID)"), _ids_differ, "hwsigner/backends/pkcs11/stored.py: stored_with"
    ),
    TokenRow("key.has-id", "Has each private key an id?").expects("yes", FOUR_MODULES, _have_ids, _PAIRING),
    TokenRow("key.always-authenticate", "Does each private key show CKA_ALWAYS_AUTHENTICATE?").expects(
        "yes",
        spec("4.9 (private key objects)"),
        _always_authenticate,
        "hwsigner/backends/pkcs11/key.py: PKCS11Key._sign",
    ),
    TokenRow("key.sign", "Does each private key show CKA_SIGN?").expects(
        "yes",
        spec("4.9 (private key objects)"),
        lambda tried: _each_shows(tried, Attribute.SIGN),
        f"{_OBJECTS}: supported",
    ),
    TokenRow(
        "key.public-key",
        "Is the public key of each private key shown, by itself, by another object or by a certificate?",
    ).expects("yes", FOUR_MODULES, _have_public_keys, _PAIRING),
    TokenRow("key.certificate-id", "Has each certificate the id of its private key?").expects(
        "yes", spec("4.6.3 (CKA_ID of certificates)"), _certificates_share_ids, _PAIRING
    ),
    TokenRow("key.secret", "Can a private key be read out? Only the length of its secret is asked for.").expects(
        "no",
        spec("4.9 (CKA_SENSITIVE and CKA_EXTRACTABLE)"),
        _secrets,
        "hwsigner/backends/pkcs11/description.py: _copy_guards",
    ),
)
