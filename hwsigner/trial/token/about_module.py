"""Questions about the module and the token, and about searches, without a login. None changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, TokenFlag
from hwsigner.backends.pkcs11.pins import pin_state
from hwsigner.trial.asking import numbered
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.calls import (
    EC_GENERATION,
    ECDSA,
    ECDSA_SHA256,
    MECHANISMS,
    OK,
    RSA,
    RSA_GENERATION,
    RSA_SHA256,
    named,
)
from hwsigner.trial.token.second import look_in_second_process
from hwsigner.trial.token.subject import Ask, TriedToken, yes_or

# No module has so many slots or mechanisms.
_NO_SLOT = _NO_MECHANISM = 0x7FFFFF01
_GENERATES = 0x10000


def _version(tried: TriedToken) -> str:
    code, version = tried.calls.version()
    if code != OK:
        return named(code)
    tried.measured["cryptoki"] = "{}.{}".format(*version)
    return "2.20 to 3.2" if (2, 20) <= version <= (3, 2) else tried.measured["cryptoki"]


def _threads(tried: TriedToken) -> str:
    return {"for threads": "yes", "by others": "initialised by others"}.get(
        tried.module.functions.initialised, "no: calls are made one at a time"
    )


def _session_in_unknown_slot(tried: TriedToken) -> str:
    if _NO_SLOT in tried.calls.slots(present=False)[1]:
        raise NotAskedError("the module has that slot")
    code, handle = tried.calls.open(_NO_SLOT)
    if code == OK:
        tried.calls.close(handle)
    return named(code)


def _flag(tried: TriedToken, flag: int) -> str:
    return "yes" if tried.info.flags & flag else "no"


def _names(tried: TriedToken) -> str:
    names = {"label": tried.info.label, "serial number": tried.info.serial}
    return " and ".join(name for name, value in names.items() if value.strip()) or "neither"


def _is_utf8(tried: TriedToken) -> str:
    texts = (tried.info.label, tried.info.manufacturer, tried.info.model, tried.info.serial)
    return yes_or("no" if any("\ufffd" in text for text in texts) else "")


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


def _sizes(tried: TriedToken, mechanism: int, size: int) -> str:
    found = tried.module.functions.mechanism(tried.slot, mechanism)
    if found is None or not found.flags & _GENERATES:
        raise NotAskedError(f"the token does not list {MECHANISMS[mechanism]} for key pairs")
    return yes_or("" if found.smallest <= size <= found.largest else f"{found.smallest} to {found.largest}")


def _prefix(tried: TriedToken) -> str:
    labels = {one.label for one in tried.before.everything if len(one.label) > 1}
    if not labels:
        raise NotAskedError("no object with a label is shown without a login")
    shortened = [one[:-1] for one in labels if one[:-1] not in labels]
    wrong = sum(bool(tried.session.find(None, {Attribute.LABEL: one})) for one in shortened)
    return yes_or(f"{numbered(wrong, 'shorter label')} found objects" if wrong else "")


def _by_label(tried: TriedToken) -> str:
    shown = [one for one in tried.before.publics if one.label]
    if not shown:
        raise NotAskedError("no public key with a label is shown without a login")
    lost = sum(
        one.handle not in tried.session.find(ObjectClass.PUBLIC_KEY, {Attribute.LABEL: one.label}) for one in shown
    )
    return yes_or(f"{lost} of {len(shown)} are not found" if lost else "")


ASKS: Mapping[str, Ask] = {
    "module.version": _version,
    "module.initialise-twice": lambda tried: named(tried.calls.initialise()),
    "module.threads": _threads,
    "module.finalised": lambda tried: look_in_second_process(tried).after_finalise,
    "module.session-in-unknown-slot": _session_in_unknown_slot,
    "token.user-pin-set": partial(_flag, flag=TokenFlag.USER_PIN_INITIALIZED),
    "token.login-required": partial(_flag, flag=TokenFlag.LOGIN_REQUIRED),
    "token.keypad": partial(_flag, flag=TokenFlag.PROTECTED_AUTHENTICATION_PATH),
    "token.pin-count": lambda tried: pin_state(tried.info) or "no warning",
    "token.names": _names,
    "token.utf8": _is_utf8,
    "token.alone": _alone,
    "mechanism.unknown": lambda tried: named(tried.calls.mechanism(tried.slot, _NO_MECHANISM)),
    "mechanism.ecdsa": partial(_signs, with_one_of=(ECDSA,), if_one_of=(ECDSA, ECDSA_SHA256)),
    "mechanism.rsa": partial(_signs, with_one_of=(RSA_SHA256, RSA), if_one_of=(RSA_SHA256, RSA)),
    "mechanism.ec-sizes": partial(_sizes, mechanism=EC_GENERATION, size=256),
    "mechanism.rsa-sizes": partial(_sizes, mechanism=RSA_GENERATION, size=2048),
    "search.whole-label": _prefix,
    "search.label": _by_label,
}
