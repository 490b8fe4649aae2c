"""Questions about the module: how it starts, what it says of itself, and its slots."""

from __future__ import annotations

import threading

from hwsigner.trial.questions import NotAskedError, choice, observation
from hwsigner.trial.token.calls import OK, named
from hwsigner.trial.token.second import look_in_second_process
from hwsigner.trial.token.subject import TriedToken
from hwsigner.trial.token.tables import TokenRow, spec, yes_or

_MODULE = "hwsigner/backends/pkcs11/module.py"
_FUNCTIONS = "hwsigner/backends/pkcs11/functions.py"
# No module has so many slots.
_NO_SLOT = 0x7FFFFF01


def _version(tried: TriedToken) -> str:
    code, info = tried.calls.info()
    if code != OK:
        return named(code)
    tried.measured["cryptoki"] = "{}.{}".format(*info.version)
    return "2.20 to 3.2" if (2, 20) <= info.version <= (3, 2) else tried.measured["cryptoki"]


def _padding(tried: TriedToken) -> str:
    code, info = tried.calls.info()
    if code != OK:
        return named(code)
    if any(b"\0" in text for text in (info.manufacturer, info.description)):
        return "padded with zero bytes"
    return "padded with blanks"


def _second_initialise(tried: TriedToken) -> str:
    return named(tried.calls.initialise())


def _threads(tried: TriedToken) -> str:
    return {"for threads": "yes", "by others": "initialised by others"}.get(
        tried.module.functions.initialised, "no: calls are made one at a time"
    )


def _finalised(tried: TriedToken) -> str:
    return look_in_second_process(tried).after_finalise


def _slots_agree(tried: TriedToken) -> str:
    first, second = tried.calls.slots(present=True), tried.calls.slots(present=True)
    if first != second:
        return "two lists differ"
    everything = tried.calls.slots(present=False)
    for code, _ in (first, everything):
        if code != OK:
            return named(code)
    tried.measured["slots"] = f"{len(everything[1])}, with a token: {len(first[1])}"
    return yes_or("" if set(first[1]) <= set(everything[1]) else "a slot with a token is not among all slots")


def _unknown_slot(tried: TriedToken) -> str:
    if _NO_SLOT in tried.calls.slots(present=False)[1]:
        raise NotAskedError("the module has that slot")
    return named(tried.calls.token(_NO_SLOT)[0])


def _session_in_unknown_slot(tried: TriedToken) -> str:
    if _NO_SLOT in tried.calls.slots(present=False)[1]:
        raise NotAskedError("the module has that slot")
    code, handle = tried.calls.open(_NO_SLOT)
    if code == OK:
        tried.calls.close(handle)
    return named(code)


def _listing_in_threads(tried: TriedToken) -> str:
    expected = tried.calls.token(tried.slot)
    differing: list[int] = []

    def work() -> None:
        differing.extend(1 for _ in range(25) if tried.calls.token(tried.slot) != expected)

    if tried.module.functions.initialised != "for threads":
        raise NotAskedError("the module takes calls of one thread")
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return yes_or(f"{len(differing)} of 100 answers differ" if differing else "")


QUESTIONS = (
    TokenRow("module.version", "Which version of Cryptoki does the module say that it has?").expects(
        "2.20 to 3.2", choice("hwsigner uses the functions of 2.20 alone"), _version, f"{_FUNCTIONS}: Functions"
    ),
    TokenRow("module.padding", "How are the texts of CK_INFO padded?").expects(
        "padded with blanks", spec("3.1 (CK_INFO)"), _padding, f"{_FUNCTIONS}: _text", f"{_MODULE}: Module._matches"
    ),
    TokenRow("module.initialise-twice", "What does a second C_Initialize answer?").expects(
        "CKR_CRYPTOKI_ALREADY_INITIALIZED",
        spec("5.4.1 (C_Initialize)"),
        _second_initialise,
        f"{_FUNCTIONS}: Functions.initialise",
    ),
    TokenRow("module.threads", "Does the module accept CKF_OS_LOCKING_OK?").expects(
        "yes", spec("5.4.1 (C_Initialize)"), _threads, f"{_FUNCTIONS}: Functions.initialise"
    ),
    TokenRow("module.threads-list", "Do four threads at once get the same CK_TOKEN_INFO as one?").expects(
        "yes", spec("3.7 (locking)"), _listing_in_threads, f"{_FUNCTIONS}: Functions"
    ),
    TokenRow("module.finalised", "What does C_GetInfo answer after C_Finalize?").expects(
        "CKR_CRYPTOKI_NOT_INITIALIZED", spec("5.4.3 (C_GetInfo)"), _finalised, f"{_FUNCTIONS}: Functions.is_finalised"
    ),
    TokenRow("module.slots", "Are two lists of slots the same, and are those with a token among all?").expects(
        "yes", spec("5.5.1 (C_GetSlotList)"), _slots_agree, f"{_FUNCTIONS}: Functions.slots"
    ),
    TokenRow("module.unknown-slot", "What does C_GetTokenInfo answer for a slot that is not there?").expects(
        "CKR_SLOT_ID_INVALID",
        spec("5.5.3 (C_GetTokenInfo)"),
        _unknown_slot,
        "hwsigner/backends/pkcs11/errors.py: PKCS11Error.is_removal",
    ),
    TokenRow("module.session-in-unknown-slot", "What does C_OpenSession answer for a slot that is not there?").expects(
        "CKR_SLOT_ID_INVALID",
        observation("SoftHSM 2.6, libykcs11 2.7, OpenSC 0.26"),
        _session_in_unknown_slot,
        "hwsigner/backends/pkcs11/errors.py: PKCS11Error.is_removal",
    ),
)
