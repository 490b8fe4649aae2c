"""Questions about sessions and the login, and about what ends them."""

from __future__ import annotations

from hwsigner.backends.pkcs11.errors import DEVICE_ERROR, DEVICE_REMOVED
from hwsigner.backends.pkcs11.functions import ObjectClass
from hwsigner.backends.pkcs11.pins import pin_state
from hwsigner.trial.questions import NotAskedError, choice
from hwsigner.trial.token.calls import NO_RANDOM, NOT_SUPPORTED, OK, means_lost, named
from hwsigner.trial.token.subject import TriedToken
from hwsigner.trial.token.tables import FOUR_MODULES, TokenRow, spec, yes_or

_OPEN = "hwsigner/backends/pkcs11/token.py: OpenToken"
_ERRORS = "hwsigner/backends/pkcs11/errors.py: SessionLostError"
_NO_SESSION = 0x7FFFFF01
_SESSIONS = 8


def _lost(code: int) -> str:
    """Return what hwsigner makes of a return value, which may have several names."""
    return "the session has ended" if means_lost(code) else named(code)


def _unknown_session(tried: TriedToken) -> str:
    return named(tried.calls.state(_NO_SESSION)[0])


def _closed(tried: TriedToken) -> str:
    with tried.raw_session() as session:
        code = tried.calls.close(session)
        if code != OK:
            return f"C_CloseSession answers {named(code)}"
        return _lost(tried.calls.state(session)[0])


def _search_when_closed(tried: TriedToken) -> str:
    with tried.raw_session() as session:
        tried.calls.close(session)
        code = tried.calls.begin_search(session)
    return _lost(code)


def _many(tried: TriedToken) -> str:
    opened = [tried.calls.open(tried.slot) for _ in range(_SESSIONS)]
    for code, handle in opened:
        if code == OK:
            tried.calls.close(handle)
    there = sum(code == OK for code, _ in opened)
    return yes_or("" if there == _SESSIONS else f"{there} can")


def _state_before(tried: TriedToken) -> str:
    with tried.raw_session() as session:
        code, state = tried.calls.state(session)
    return state if code == OK else named(code)


def _shared(tried: TriedToken) -> str:
    """Compare a session from before the login with one from after it."""
    with tried.raw_session() as before:
        tried.log_in()
        with tried.raw_session() as after:
            states = {tried.calls.state(one)[1] for one in (before, after)}
    return "yes" if states == {"logged in"} else "no"


def _outlives(tried: TriedToken) -> str:
    tried.log_in()
    with tried.raw_session():
        pass
    with tried.raw_session() as session:
        return tried.calls.state(session)[1]


def _second_login(tried: TriedToken) -> str:
    pin = tried.pin
    with tried.raw_session() as session:
        return named(tried.calls.log_in(session, pin))


def _count_after(tried: TriedToken) -> str:
    tried.log_in()
    return pin_state(tried.refreshed()) or "no warning"


def _handles(tried: TriedToken) -> str:
    """Compare the handles of the private keys in two sessions."""
    tried.log_in_if_wanted()
    with tried.raw_session() as session:
        tried.calls.begin_search(session)
        found = tried.calls.search(session, 256)[1]
        tried.calls.end_search(session)
    if not found:
        raise NotAskedError("the token shows no object")
    return yes_or("" if set(found) <= set(tried.session.find(None, {})) else "no")


def _logout(tried: TriedToken) -> str:
    tried.log_in()
    with tried.raw_session() as session:
        keys = tried.session.find(ObjectClass.PRIVATE_KEY, {})
        code = tried.calls.log_out(session)
        if code != OK:
            return named(code)
        left = tried.session.find(ObjectClass.PRIVATE_KEY, {})
        state = tried.calls.state(session)[1]
    tried.release()
    if not keys:
        raise NotAskedError("the token has no private keys")
    return state if not left else f"{state}, and {len(left)} of {len(keys)} private keys are still shown"


def _again(tried: TriedToken) -> str:
    """Log in again as hwsigner does, with the PIN that was right."""
    tried.require_accepted_pin()
    try:
        tried.log_in()
    except NotAskedError as error:
        if tried.failure:
            return error.message
        raise
    return "yes"


def _last_session(tried: TriedToken) -> str:
    tried.log_in()
    handle = tried.calls.open(tried.slot)[1]
    tried.session.close()  # Without C_Logout.
    tried.token.session = None
    tried.calls.close(handle)
    tried.release()
    with tried.raw_session() as session:
        state = tried.calls.state(session)[1]
        if state == "logged in":
            tried.calls.log_out(session)
    return state


def _pulled(tried: TriedToken) -> str:
    """Have the user pull the token and put it back, and ask the session from before."""
    if not tried.plan.may_ask:
        raise NotAskedError("nobody is there to pull the token")
    tried.log_in()
    with tried.raw_session() as session:
        tried.pause("Pull the token out now, wait until its light is off, then press Enter")
        is_there = tried.module.functions.has_token(tried.slot)
        tried.measured["C_GetSlotInfo notices that the token is out"] = "no" if is_there else "yes"
        tried.pause("Put the token back, wait three seconds, then press Enter")
        tried.calls.slots(present=True)
        code, state = tried.calls.state(session)
        codes = (code, tried.calls.begin_search(session), tried.calls.random(session))
    tried.release()
    if state != "logged in" or any(means_lost(one) or one in (DEVICE_ERROR, DEVICE_REMOVED) for one in codes):
        return "its login has ended"
    failed = [named(one) for one in codes if one not in (OK, NOT_SUPPORTED, NO_RANDOM)]
    return failed[0] if failed else "it is still logged in"


BEFORE_LOGIN = (
    TokenRow("session.unknown", "What does C_GetSessionInfo answer for a handle that no session has?").expects(
        "CKR_SESSION_HANDLE_INVALID", spec("5.6.4 (C_GetSessionInfo)"), _unknown_session, _ERRORS
    ),
    TokenRow("session.closed", "What does hwsigner make of the answer for a closed session?").expects(
        "the session has ended", spec("5.6.2 (C_CloseSession)"), _closed, _ERRORS, f"{_OPEN}.drop_lost_session"
    ),
    TokenRow("session.closed-search", "What does hwsigner make of the answer to a search in a closed session?").expects(
        "the session has ended", spec("5.6.2 (C_CloseSession)"), _search_when_closed, _ERRORS
    ),
    TokenRow("session.many", f"Can {_SESSIONS} sessions be open at once?").expects(
        "yes", choice("programs and threads of one process have sessions of their own"), _many, f"{_OPEN}._open_session"
    ),
    TokenRow("session.state", "Is a new session logged in?").expects(
        "not logged in", spec("5.6.1 (C_OpenSession)"), _state_before, f"{_OPEN}.current_session"
    ),
    TokenRow("login.shared", "Is a session from before the login logged in too, and one from after it?").expects(
        "yes", spec("5.6.8 (C_Login)"), _shared, "hwsigner/backends/pkcs11/writing.py: WritingSession"
    ),
)
AFTER_LOGIN = (
    TokenRow("login.outlives", "Is the process still logged in after one of its sessions was closed?").expects(
        "logged in", spec("5.6.2 (C_CloseSession)"), _outlives, f"{_OPEN}.release"
    ),
    TokenRow("login.twice", "What does a second C_Login with the right PIN answer?").expects(
        "CKR_USER_ALREADY_LOGGED_IN", spec("5.6.8 (C_Login)"), _second_login, f"{_OPEN}._log_in_with"
    ),
    TokenRow("login.pin-count", "What do the flags say of the user PIN after the login?").expects(
        "no warning", spec("3.2 (CK_TOKEN_INFO)"), _count_after, "hwsigner/backends/pkcs11/pins.py: pin_state"
    ),
    TokenRow("object.handles", "Has an object the same handle in each session of the process?").expects(
        "yes",
        FOUR_MODULES,
        _handles,
        "hwsigner/backends/pkcs11/writing.py: WritingSession",
    ),
)
LAST = (
    TokenRow("login.logout", "Is a session logged in after C_Logout, and are private keys still shown?").expects(
        "not logged in", spec("5.6.10 (C_Logout)"), _logout, f"{_OPEN}._close_session"
    ),
    TokenRow("login.again", "Can hwsigner log in again after C_Logout?").expects(
        "yes", spec("5.6.10 (C_Logout)"), _again, f"{_OPEN}.current_session"
    ),
    TokenRow(
        "login.last-session", "Is a new session logged in after the last one was closed without C_Logout?"
    ).expects("not logged in", spec("5.6.2 (C_CloseSession)"), _last_session, f"{_OPEN}.release"),
    TokenRow(
        "token.pulled", "What has become of a session and its login after the token was pulled out and put back?"
    ).expects(
        "its login has ended",
        spec("PKCS #11 2.20, 6.7.4 (session events)"),
        _pulled,
        f"{_OPEN}.drop_lost_session",
        "docs/how-to/pkcs11-in-use.md",
    ),
)
