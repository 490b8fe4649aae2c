"""Questions about the token, before a login: its flags, its name and its mechanisms."""

from __future__ import annotations

from functools import partial

from hwsigner.backends.pkcs11.functions import TokenFlag
from hwsigner.backends.pkcs11.pins import pin_state
from hwsigner.trial.questions import NotAskedError, choice
from hwsigner.trial.token.calls import OK, named
from hwsigner.trial.token.subject import TriedToken
from hwsigner.trial.token.tables import FOUR_MODULES, TokenRow, spec, yes_or

_OPEN = "hwsigner/backends/pkcs11/token.py: OpenToken"
_PINS = "hwsigner/backends/pkcs11/pins.py"
_KEY = "hwsigner/backends/pkcs11/key.py: PKCS11Key._method"
_KEYGEN = "hwsigner/backends/pkcs11/keygen.py"
RSA_GENERATION, RSA, RSA_SHA256 = 0x0000, 0x0001, 0x0040
EC_GENERATION, ECDSA, ECDSA_SHA256 = 0x1040, 0x1041, 0x1044
MLDSA_GENERATION, MLDSA = 0x1C, 0x1D
_GENERATES = 0x10000
MECHANISMS = {
    RSA_GENERATION: "CKM_RSA_PKCS_KEY_PAIR_GEN",
    RSA: "CKM_RSA_PKCS",
    RSA_SHA256: "CKM_SHA256_RSA_PKCS",
    0x000D: "CKM_RSA_PKCS_PSS",
    0x0043: "CKM_SHA256_RSA_PKCS_PSS",
    EC_GENERATION: "CKM_EC_KEY_PAIR_GEN",
    ECDSA: "CKM_ECDSA",
    ECDSA_SHA256: "CKM_ECDSA_SHA256",
    0x1045: "CKM_ECDSA_SHA384",
    0x1046: "CKM_ECDSA_SHA512",
    0x1055: "CKM_EC_EDWARDS_KEY_PAIR_GEN",
    0x1057: "CKM_EDDSA",
    MLDSA_GENERATION: "CKM_ML_DSA_KEY_PAIR_GEN",
    MLDSA: "CKM_ML_DSA",
}
_NO_MECHANISM = 0x7FFFFF01


def _flag(tried: TriedToken, flag: int) -> str:
    return "yes" if tried.info.flags & flag else "no"


def _pin_count(tried: TriedToken) -> str:
    return pin_state(tried.info) or "no warning"


def _same_twice(tried: TriedToken) -> str:
    return yes_or("" if tried.calls.token(tried.slot) == tried.calls.token(tried.slot) else "no")


def _names(tried: TriedToken) -> str:
    names = {"label": tried.info.label, "serial number": tried.info.serial}
    return " and ".join(name for name, value in names.items() if value.strip()) or "neither"


def _is_utf8(tried: TriedToken) -> str:
    texts = (tried.info.label, tried.info.manufacturer, tried.info.model, tried.info.serial)
    return yes_or("no" if any("\ufffd" in text for text in texts) else "")


def _alone(tried: TriedToken) -> str:
    alike = [one for one in tried.module.tokens() if one.identity == tried.info.identity]
    return yes_or(f"{len(alike)} tokens have the same details" if len(alike) > 1 else "")


def _pin_lengths(tried: TriedToken) -> str:
    limits = tried.calls.limits(tried.slot)
    tried.measured["PIN"] = f"{limits.shortest_pin} to {limits.longest_pin} bytes"
    return yes_or("" if limits.longest_pin > 0 and limits.shortest_pin <= limits.longest_pin else "no")


def _listed(tried: TriedToken) -> list[int]:
    code, found = tried.calls.mechanisms(tried.slot)
    if code != OK:
        raise NotAskedError(f"C_GetMechanismList answers {named(code)}")
    tried.measured["mechanisms"] = ", ".join(name for number, name in MECHANISMS.items() if number in found)
    return found


def _mechanisms_agree(tried: TriedToken) -> str:
    found = _listed(tried)
    wrong = sum(tried.calls.mechanism(tried.slot, one) != OK for one in found)
    return yes_or(f"{wrong} listed mechanisms have no CK_MECHANISM_INFO" if wrong else "")


def _unknown_mechanism(tried: TriedToken) -> str:
    return named(tried.calls.mechanism(tried.slot, _NO_MECHANISM))


def _signs(tried: TriedToken, mechanism: int) -> str:
    found = tried.module.functions.mechanism(tried.slot, mechanism)
    if found is None:
        return "no"
    return "yes" if tried.module.functions.can_sign_with(tried.slot, mechanism) else "listed, but not for signatures"


def _either(tried: TriedToken, *mechanisms: int) -> str:
    """Return whether the token signs with one of the mechanisms, if it has keys of that type at all."""
    answers = {_signs(tried, one) for one in mechanisms}
    if answers == {"no"}:
        raise NotAskedError("the token lists no mechanism of that type")
    return "yes" if "yes" in answers else answers.pop()


def _signs_digests(tried: TriedToken) -> str:
    _either(tried, ECDSA, ECDSA_SHA256)
    return _signs(tried, ECDSA)


def _sizes(tried: TriedToken, mechanism: int, size: int) -> str:
    found = tried.module.functions.mechanism(tried.slot, mechanism)
    if found is None or not found.flags & _GENERATES:
        raise NotAskedError(f"the token does not list {MECHANISMS[mechanism]} for key pairs")
    return yes_or("" if found.smallest <= size <= found.largest else f"{found.smallest} to {found.largest}")


QUESTIONS = (
    TokenRow("token.initialised", "Is CKF_TOKEN_INITIALIZED set?").expects(
        "yes",
        spec("3.2 (CK_TOKEN_INFO)"),
        partial(_flag, flag=TokenFlag.TOKEN_INITIALIZED),
        "hwsigner/backends/pkcs11/module.py: Module.tokens",
    ),
    TokenRow("token.user-pin-set", "Is CKF_USER_PIN_INITIALIZED set?").expects(
        "yes", spec("3.2 (CK_TOKEN_INFO)"), partial(_flag, flag=TokenFlag.USER_PIN_INITIALIZED), f"{_OPEN}.can_log_in"
    ),
    TokenRow("token.login-required", "Is CKF_LOGIN_REQUIRED set?").expects(
        "yes", spec("3.2 (CK_TOKEN_INFO)"), partial(_flag, flag=TokenFlag.LOGIN_REQUIRED), f"{_OPEN}.wants_login"
    ),
    TokenRow("token.keypad", "Is the PIN typed at the token (CKF_PROTECTED_AUTHENTICATION_PATH)?").expects(
        "no",
        choice("most tokens have no keypad; hwsigner asks for the PIN unless the flag is set"),
        partial(_flag, flag=TokenFlag.PROTECTED_AUTHENTICATION_PATH),
        f"{_PINS}: has_keypad",
    ),
    TokenRow("token.pin-count", "What do the flags say of the user PIN before a login?").expects(
        "no warning",
        choice("the trial sends a PIN only while no wrong one is counted"),
        _pin_count,
        f"{_PINS}: pin_state",
    ),
    TokenRow("token.same-twice", "Do two calls of C_GetTokenInfo give the same names?").expects(
        "yes", spec("5.5.3 (C_GetTokenInfo)"), _same_twice, f"{_OPEN}.refresh"
    ),
    TokenRow("token.names", "Has the token a label and a serial number?").expects(
        "label and serial number", spec("3.2 (CK_TOKEN_INFO)"), _names, "hwsigner/backends/pkcs11/module.py: token_uri"
    ),
    TokenRow("token.utf8", "Are the token's names UTF-8?").expects(
        "yes", spec("3.2 (CK_TOKEN_INFO)"), _is_utf8, "hwsigner/backends/pkcs11/functions.py: _text"
    ),
    TokenRow(
        "token.alone", "Has no other token of the module the same label, manufacturer, model and serial number?"
    ).expects(
        "yes", choice("hwsigner recognises a token by these"), _alone, f"{_OPEN}.refresh", "docs/reference/key-uris.md"
    ),
    TokenRow("token.pin-lengths", "Are the shortest and the longest PIN of CK_TOKEN_INFO plausible?").expects(
        "yes", spec("3.2 (CK_TOKEN_INFO)"), _pin_lengths, f"{_OPEN}._refused"
    ),
    TokenRow("mechanism.list", "Has each mechanism of the list a CK_MECHANISM_INFO?").expects(
        "yes",
        spec("5.5.6 (C_GetMechanismInfo)"),
        _mechanisms_agree,
        "hwsigner/backends/pkcs11/functions.py: Functions.mechanism",
    ),
    TokenRow(
        "mechanism.unknown", "What does C_GetMechanismInfo answer for a mechanism that the token does not list?"
    ).expects(
        "CKR_MECHANISM_INVALID",
        spec("5.5.6 (C_GetMechanismInfo)"),
        _unknown_mechanism,
        "hwsigner/backends/pkcs11/functions.py: Functions.mechanism",
    ),
    TokenRow("mechanism.ecdsa", "Does a token with ECDSA sign with CKM_ECDSA, which takes a digest?").expects(
        "yes", FOUR_MODULES, _signs_digests, _KEY
    ),
    TokenRow("mechanism.rsa", "Does a token with RSA sign with CKM_SHA256_RSA_PKCS or CKM_RSA_PKCS?").expects(
        "yes",
        FOUR_MODULES,
        lambda tried: _either(tried, RSA_SHA256, RSA),
        _KEY,
    ),
    TokenRow("mechanism.ec-sizes", "Do the sizes of CKM_EC_KEY_PAIR_GEN, in bits, include 256?").expects(
        "yes", spec("6.3.1 (EC)"), partial(_sizes, mechanism=EC_GENERATION, size=256), f"{_KEYGEN}: _require_mechanism"
    ),
    TokenRow("mechanism.rsa-sizes", "Do the sizes of CKM_RSA_PKCS_KEY_PAIR_GEN, in bits, include 2048?").expects(
        "yes",
        spec("6.1.5 (RSA)"),
        partial(_sizes, mechanism=RSA_GENERATION, size=2048),
        f"{_KEYGEN}: _require_mechanism",
    ),
)
