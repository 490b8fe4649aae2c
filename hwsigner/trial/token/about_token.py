"""Questions about the module, the token and its objects: what is shown when, and in which form. They only read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from hwsigner.backends.pkcs11.functions import Attribute, KeyType, ObjectClass, TokenFlag
from hwsigner.backends.pkcs11.objects import KeyObject
from hwsigner.backends.pkcs11.pairing import public_keys_of
from hwsigner.backends.pkcs11.pins import pin_state
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.calls import ECDSA, ECDSA_SHA256, RSA, RSA_SHA256, answer, initialise
from hwsigner.trial.token.second import look_in_second_process
from hwsigner.trial.token.subject import Ask, TriedToken, yes_or

# No module has so many slots.
_NO_SLOT = 0x7FFFFF01
_NO_OBJECT = 0x7FFFFF01


def _threads(tried: TriedToken) -> str:
    return {"for threads": "yes", "by others": "initialised by others"}.get(
        tried.module.functions.initialised, "no: calls are made one at a time"
    )


def _session_in_unknown_slot(tried: TriedToken) -> str:
    return answer(lambda: tried.module.functions.open_session(_NO_SLOT).close())


def _flag(tried: TriedToken, flag: int) -> str:
    return "yes" if tried.info.flags & flag else "no"


def _names(tried: TriedToken) -> str:
    names = {"label": tried.info.label, "serial number": tried.info.serial}
    return " and ".join(name for name, value in names.items() if value.strip()) or "neither"


def _alone(tried: TriedToken) -> str:
    alike = [one for one in tried.module.tokens() if one.identity == tried.info.identity]
    return yes_or(f"{len(alike)} tokens have the same details" if len(alike) > 1 else "")


def _signs(tried: TriedToken, with_one_of: tuple[int, ...], if_one_of: tuple[int, ...]) -> str:
    """Return whether the token signs with one of some mechanisms, if it has keys of that type at all."""
    functions = tried.module.functions
    if not any(functions.mechanism(tried.slot, one) for one in if_one_of):
        raise NotAskedError("the token lists no mechanism of that type")
    if any(functions.can_sign_with(tried.slot, one) for one in with_one_of):
        return "yes"
    is_listed = any(functions.mechanism(tried.slot, one) for one in with_one_of)
    return "listed, but not for signatures" if is_listed else "no"


def _by_label(tried: TriedToken) -> str:
    shown = [one for one in tried.before.publics if one.label]
    if not shown:
        raise NotAskedError("no public key with a label is shown without a login")
    lost = sum(
        one.handle not in tried.session.find(ObjectClass.PUBLIC_KEY, {Attribute.LABEL: one.label}) for one in shown
    )
    return yes_or(f"{lost} of {len(shown)} are not found" if lost else "")


def _compared(tried: TriedToken, what: str, name: str) -> str:
    before, after = len(getattr(tried.before, what)), len(getattr(tried.after_login(), what))
    if not after:
        raise NotAskedError(f"the token has no {name}")
    return "all" if before >= after else "none" if not before else f"{before} of {after}"


def _privates(tried: TriedToken) -> Sequence[KeyObject]:
    if not (found := tried.after_login().privates):
        raise NotAskedError("the token has no private keys")
    return found


def _lacking(number: int, found: Sequence[object], what: str) -> str:
    return yes_or(f"{number} of {len(found)} {what}" if number else "")


def _differ(tried: TriedToken, *, by_label: bool) -> str:
    names = Counter((one.label if by_label else b"", one.id) for one in _privates(tried))
    again = sum(number - 1 for number in names.values())
    return yes_or(f"{again} have {'those' if by_label else 'that'} of another one" if again else "")


def _have_ids(tried: TriedToken) -> str:
    found = _privates(tried)
    return _lacking(sum(not one.id for one in found), found, "have none")


def _each_shows(tried: TriedToken, name: int) -> str:
    found = _privates(tried)
    return _lacking(sum(name not in tried.session.read(one.handle, (name,)) for one in found), found, "do not")


def _always_authenticate(tried: TriedToken) -> str:
    found = [one for one in _privates(tried) if one.always_authenticate]
    tried.measured["keys that want the PIN for each signature"] = str(len(found))
    return _each_shows(tried, Attribute.ALWAYS_AUTHENTICATE)


def _have_public_keys(tried: TriedToken) -> str:
    found = list(_privates(tried))
    return _lacking(sum(one is None for one in public_keys_of(tried.session, found)), found, "have none")


def _certificates_share_ids(tried: TriedToken) -> str:
    found = tried.after_login()
    keys = dict(zip(public_keys_of(tried.session, found.privates), found.privates, strict=True))
    pairs = [(one, keys[one.public_key]) for one in found.certificates if one.public_key and one.public_key in keys]
    if not pairs:
        raise NotAskedError("no certificate is that of a private key on the token")
    return _lacking(sum(one.id != key.id for one, key in pairs), pairs, "have another one")


def _some_object(tried: TriedToken) -> int:
    found = tried.session.find(None, {})
    if not found:
        raise NotAskedError("the token shows no object")
    return found[0]


def _unknown_attribute(tried: TriedToken) -> str:
    asked = Attribute.CLASS, Attribute.MODULUS_BITS + 7

    def read() -> str:
        return "the others are read" if session.lengths(_some_object(tried), asked).get(asked[0]) else "none is read"

    with tried.own_session() as session:
        return answer(read)


def _unknown_object(tried: TriedToken) -> str:
    with tried.own_session() as session:
        return answer(lambda: session.lengths(_NO_OBJECT, (Attribute.CLASS,)), lost="the object is looked for again")


def _unknown_key(tried: TriedToken) -> str:
    listed = [one for one in (ECDSA, RSA) if tried.module.functions.can_sign_with(tried.slot, one)]
    if not listed:
        raise NotAskedError("the token lists no mechanism to sign with")
    with tried.own_session() as session:
        return answer(lambda: session.begin_signature(_NO_OBJECT, listed[0]), lost="the key is looked for again")


def _point_form(point: bytes) -> str:
    short, long = point[1:2] == bytes([len(point) - 2 & 0xFF]), point[1:3] == bytes([0x81, len(point) - 3 & 0xFF])
    is_der = point[0] == 0x04 and len(point) > 3 and (short or long)
    inner = point if not is_der else point[2:] if point[1] < 0x80 else point[3:]
    form = {2: "compressed", 3: "compressed", 4: "uncompressed"}.get(inner[0], "of another form")
    return f"{'DER' if is_der else 'no DER'}, {form}"


def _parameters_form(parameters: bytes) -> str:
    forms = {0x06: "the OID of a curve", 0x13: "the name of a curve", 0x30: "all parameters"}
    return forms.get(parameters[0], f"tag {parameters[0]:#x}")


def _forms(tried: TriedToken, number: int, form: Callable[[bytes], str]) -> str:
    """Return the forms of an attribute of the public EC keys that are shown without a login."""
    found = [one.handle for one in tried.before.publics if one.key_type == KeyType.EC]
    if not found:
        raise NotAskedError("the token shows no public EC key without a login")
    values = [tried.session.read(one, (number,)).get(number) for one in found]
    return " or ".join(sorted({form(value) if value else "not shown" for value in values}))


ASKS: Mapping[str, Ask] = {
    "module.initialise-twice": lambda tried: answer(lambda: initialise(tried.module.functions)),
    "module.threads": _threads,
    "module.finalised": lambda tried: look_in_second_process(tried).after_finalise,
    "module.session-in-unknown-slot": _session_in_unknown_slot,
    "token.user-pin-set": partial(_flag, flag=TokenFlag.USER_PIN_INITIALIZED),
    "token.login-required": partial(_flag, flag=TokenFlag.LOGIN_REQUIRED),
    "token.pin-count": lambda tried: pin_state(tried.info) or "no warning",
    "token.names": _names,
    "token.alone": _alone,
    "mechanism.ecdsa": partial(_signs, with_one_of=(ECDSA,), if_one_of=(ECDSA, ECDSA_SHA256)),
    "mechanism.rsa": partial(_signs, with_one_of=(RSA_SHA256, RSA), if_one_of=(RSA_SHA256, RSA)),
    "search.label": _by_label,
    "object.unknown": _unknown_object,
    "object.unknown-key": _unknown_key,
    "object.unknown-attribute": _unknown_attribute,
    "object.ec-point": partial(_forms, number=Attribute.EC_POINT, form=_point_form),
    "object.ec-params": partial(_forms, number=Attribute.EC_PARAMS, form=_parameters_form),
    "login.certificates": partial(_compared, what="certificates", name="certificates"),
    "login.public-keys": partial(_compared, what="publics", name="public keys"),
    "login.private-keys": partial(_compared, what="privates", name="private keys"),
    "key.names": partial(_differ, by_label=True),
    "key.ids": partial(_differ, by_label=False),
    "key.has-id": _have_ids,
    "key.always-authenticate": _always_authenticate,
    "key.sign": partial(_each_shows, name=Attribute.SIGN),
    "key.public-key": _have_public_keys,
    "key.certificate-id": _certificates_share_ids,
}
