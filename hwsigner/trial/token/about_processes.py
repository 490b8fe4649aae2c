"""Questions about a second process, a child process and threads."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from contextlib import suppress

from hwsigner.trial.questions import NotAskedError, choice
from hwsigner.trial.token.calls import NO_RANDOM, NOT_SUPPORTED, OK, named
from hwsigner.trial.token.second import look_in_second_process
from hwsigner.trial.token.subject import TriedToken
from hwsigner.trial.token.tables import TokenRow, spec, yes_or

_MODULE = "hwsigner/backends/pkcs11/module.py"
_FORK_SECONDS = 30.0
_THREADS, _SEARCHES = 4, 10


def _second_state(tried: TriedToken) -> str:
    tried.log_in()
    return look_in_second_process(tried).state


def _second_keys(tried: TriedToken) -> str:
    if not tried.after_login().privates:
        raise NotAskedError("the token has no private keys")
    seen = look_in_second_process(tried).privates
    return str(seen) if seen else "none"


def _first_afterwards(tried: TriedToken) -> str:
    tried.log_in()
    with tried.raw_session() as session:
        look_in_second_process(tried)
        code, state = tried.calls.state(session)
    return state if code == OK else named(code)


def _in_child(tried: TriedToken, session: int) -> dict[str, str]:
    """Return the answers that a forked child gets: with the parent's session, and after it has initialised."""
    inherited = tried.calls.state(session)
    answers = {"inherited": inherited[1] or named(inherited[0])}
    tried.calls.finalise()
    code = tried.calls.initialise()
    tried.calls.slots(present=True)
    opened, handle = tried.calls.open(tried.slot)
    state = tried.calls.state(handle)[1] if opened == OK else named(opened)
    return {**answers, "own": state if code == OK else f"C_Initialize answers {named(code)}"}


def _forked(tried: TriedToken) -> dict[str, str]:
    """Fork once, and return the child's answers and the parent's state afterwards."""
    if tried.forked is None:
        tried.forked = _fork(tried)
    return tried.forked


def _fork(tried: TriedToken) -> dict[str, str]:
    tried.log_in()
    with tried.raw_session() as session:
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
        code, state = tried.calls.state(session)
        if (used := tried.calls.random(session)) not in (OK, NOT_SUPPORTED, NO_RANDOM):
            state = f"{state}, but C_GenerateRandom answers {named(used)}"
    if not raw:
        ended = f"was ended by signal {-status}" if status < 0 and ready else "hung"
        answers = dict.fromkeys(("inherited", "own"), f"the child {ended}")
    else:
        answers = json.loads(raw)
    return {**answers, "parent": state if code == OK else named(code)}


def _in_own_session(tried: TriedToken) -> str:
    answers = _forked(tried)
    tried.measured["the parent's session in a forked child"] = answers["inherited"]
    return answers["own"]


def _threads(tried: TriedToken) -> str:
    """Search in a session for each thread."""
    tried.log_in_if_wanted()
    expected = len(tried.session.find(None, {}))
    wrong: list[str] = []

    def work() -> None:
        try:
            session = tried.module.functions.open_session(tried.slot)
            for _ in range(_SEARCHES):
                if len(session.find(None, {})) != expected:
                    wrong.append("finds another number of objects")
            session.close()
        except Exception as error:
            wrong.append(f"fails with {getattr(error, 'name', type(error).__name__)}")

    threads = [threading.Thread(target=work) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return yes_or(f"{len(wrong)} times one {wrong[0]}" if wrong else "")


def _cold(tried: TriedToken) -> str:
    tried.measured["C_Initialize to a session, median of 20"] = f"{look_in_second_process(tried).milliseconds} ms"
    return "measured"


QUESTIONS = (
    TokenRow("process.second", "Is a second process logged in while the first one is?").expects(
        "not logged in",
        spec("PKCS #11 2.20, 6.6.1 (applications and processes)"),
        _second_state,
        "docs/how-to/pkcs11-in-use.md",
        f"{_MODULE}: Module",
    ),
    TokenRow("process.second-keys", "How many private keys does a second process see that has not logged in?").expects(
        "none",
        spec("PKCS #11 2.20, 6.7.3 (permitted object accesses)"),
        _second_keys,
        "hwsigner/backends/pkcs11/search.py: find_any_key",
    ),
    TokenRow("process.first", "Is the first process still logged in after a second one has used the token?").expects(
        "logged in",
        spec("PKCS #11 2.20, 6.6.1 (applications and processes)"),
        _first_afterwards,
        "docs/how-to/pkcs11-in-use.md",
    ),
    TokenRow("thread.search", "Do four threads with a session each find the same objects as one?").expects(
        "yes", spec("3.7 (locking)"), _threads, "hwsigner/backends/pkcs11/functions.py: Functions"
    ),
    TokenRow(
        "time.session", "How long does it take from C_Initialize to an open session? The report's head says it."
    ).expects("measured", choice("no time is wrong"), _cold, "docs/how-it-works/performance.md"),
)
# A child may end what its parent does: these come late.
FORKS = (
    TokenRow("fork.own", "Is a child process's own session logged in, after C_Finalize and C_Initialize?").expects(
        "not logged in",
        spec("PKCS #11 2.20, 6.6.1 (applications and processes)"),
        _in_own_session,
        f"{_MODULE}: Module._start",
        "docs/how-to/fork.md",
    ),
    TokenRow(
        "fork.parent",
        "Is the parent still logged in, and can it use the token, after a child has initialised the module?",
    ).expects(
        "logged in",
        choice("a child must not end what its parent does"),
        lambda tried: _forked(tried)["parent"],
        f"{_MODULE}: Module._start",
        "docs/how-to/fork.md",
    ),
)
