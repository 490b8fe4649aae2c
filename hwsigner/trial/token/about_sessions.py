"""Questions about sessions and the login, what ends them, and what other processes and threads see of them."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Mapping
from contextlib import suppress

from hwsigner.backends.pkcs11.functions import ObjectClass
from hwsigner.backends.pkcs11.pins import pin_state
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.calls import OK, USABLE, TriedSession, answer
from hwsigner.trial.token.second import look_in_second_process
from hwsigner.trial.token.subject import Ask, TriedToken, in_four_threads

_SEARCHES = 10
_FORK_SECONDS = 30.0
_ENDED = "the session has ended"


def _closed(tried: TriedToken) -> str:
    with tried.own_session() as session:
        if (closed := answer(session.close)) != OK:
            return f"C_CloseSession answers {closed}"
        return answer(session.state, lost=_ENDED)


def _shared(tried: TriedToken) -> str:
    """Compare a session from before the login with one from after it."""
    with tried.own_session() as before:
        tried.log_in()
        with tried.own_session() as after:
            return "yes" if before.state() == after.state() == "logged in" else "no"


def _second_login(tried: TriedToken) -> str:
    pin = tried.pin
    with tried.own_session() as session:
        return answer(lambda: session.log_in(pin))


def _pin_count(tried: TriedToken) -> str:
    tried.log_in()
    return pin_state(tried.refreshed()) or "no warning"


def _logout(tried: TriedToken) -> str:
    tried.log_in()
    with tried.own_session() as session:
        keys = tried.session.find(ObjectClass.PRIVATE_KEY, {})
        if (answered := answer(session.log_out)) != OK:
            return answered
        left = tried.session.find(ObjectClass.PRIVATE_KEY, {})
        state = session.state()
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


def _pulled(tried: TriedToken) -> str:
    """Have the user pull the token and put it back, and ask the session from before."""
    if not tried.plan.may_ask:
        raise NotAskedError("nobody is there to pull the token")
    tried.log_in()
    with tried.own_session() as session:
        tried.pause("Pull the token out now, wait until its light is off, then press Enter")
        is_there = tried.module.functions.has_token(tried.slot)
        tried.measured["C_GetSlotInfo notices that the token is out"] = "no" if is_there else "yes"
        tried.pause("Put the token back, wait three seconds, then press Enter")
        answer(tried.module.functions.slots)
        state, *answers = (
            answer(call, lost=_ENDED) for call in (session.state, lambda: session.find(None, {}), session.random)
        )
    tried.release()
    if state != "logged in" or not {_ENDED, "CKR_DEVICE_ERROR"}.isdisjoint(answers):
        return "its login has ended"
    return next((each for each in answers if each not in USABLE), "it is still logged in")


def _second_state(tried: TriedToken) -> str:
    tried.log_in()
    return look_in_second_process(tried).state


def _in_child(tried: TriedToken, session: TriedSession) -> dict[str, str]:
    """Return the answers that a forked child gets: with the parent's session, and after it has initialised."""
    functions, inherited = tried.module.functions, answer(session.state)
    answer(functions.finalise)

    def own_state() -> str:
        functions.initialise()
        functions.slots()
        return TriedSession(functions, tried.slot).state()

    return {"inherited": inherited, "own": answer(own_state)}


def _forked(tried: TriedToken) -> dict[str, str]:
    """Fork once, and return the child's answers and the parent's state afterwards."""
    if tried.forked is None:
        tried.forked = _fork(tried)
    return tried.forked


def _fork(tried: TriedToken) -> dict[str, str]:
    tried.log_in()
    with tried.own_session() as session:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                os.write(writing, json.dumps(_in_child(tried, session)).encode())
            os._exit(0)
        os.close(writing)
        ready, _, _ = select.select([reading], [], [], _FORK_SECONDS)
        raw = os.read(reading, 4096) if ready else b""
        os.close(reading)
        if not ready:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        state = answer(session.state)
        if (used := answer(session.random)) not in USABLE:
            state = f"{state}, but C_GenerateRandom answers {used}"
    if not raw:
        ended = f"was ended by signal {-status}" if status < 0 and ready else "hung"
        answers = dict.fromkeys(("inherited", "own"), f"the child {ended}")
    else:
        answers = json.loads(raw)
    return {**answers, "parent": state}


def _in_own_session(tried: TriedToken) -> str:
    answers = _forked(tried)
    tried.measured["the parent's session in a forked child"] = answers["inherited"]
    return answers["own"]


def _search_in_threads(tried: TriedToken) -> str:
    """Search in a session for each thread."""
    tried.log_in_if_wanted()
    expected = len(tried.session.find(None, {}))

    def work() -> list[str]:
        session = tried.module.functions.open_session(tried.slot)
        counts = [len(session.find(None, {})) for _ in range(_SEARCHES)]
        session.close()
        return ["finds another number of objects" for count in counts if count != expected]

    return in_four_threads(work)


ASKS: Mapping[str, Ask] = {
    "session.closed": _closed,
    "login.shared": _shared,
    "login.twice": _second_login,
    "login.pin-count": _pin_count,
    "process.second": _second_state,
    "thread.search": _search_in_threads,
    # A child may end what its parent does: these come late.
    "fork.own": _in_own_session,
    "fork.parent": lambda tried: _forked(tried)["parent"],
    "login.logout": _logout,
    "login.again": _again,
    "token.pulled": _pulled,
}
