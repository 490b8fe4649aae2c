"""What a second process sees of a token while the first is logged in. It gets no PIN."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

from hwsigner._pins.child import child_environment
from hwsigner.backends.pkcs11.functions import Functions, ObjectClass, PKCS11Session
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.calls import OK, Calls, named
from hwsigner.trial.token.subject import TriedToken

_SECONDS = 120.0


@dataclass(frozen=True)
class SecondLook:
    """What the second process saw: CK_STATE or a refusal, how many private keys, and C_GetInfo's last answer."""

    state: str
    privates: int
    after_finalise: str


def look_in_second_process(tried: TriedToken) -> SecondLook:
    """Start a process that looks at the token, and return what it saw.

    Raises:
        NotAskedError: it failed.
    """
    command = [sys.executable, "-m", __name__, tried.plan.module, str(tried.slot)]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, env=child_environment(), timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise NotAskedError(f"a second process hung for {_SECONDS:g} s") from None
    if done.returncode < 0:
        raise NotAskedError(f"the module ended a second process by signal {-done.returncode}")
    try:  # Modules write to stdout, too.
        return SecondLook(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        raise NotAskedError("a second process could not use the module") from None


def _look(path: str, slot: int) -> SecondLook:
    functions = Functions(path)
    calls = Calls(functions)
    functions.initialise()
    calls.slots(present=True)
    code, handle = calls.open(slot)
    state, privates = named(code), 0
    if code == OK:
        state = calls.state(handle)[1]
        privates = len(PKCS11Session(functions, handle).find(ObjectClass.PRIVATE_KEY, {}))
        calls.close(handle)
    functions.finalise()
    return SecondLook(state, privates, named(calls.version()[0]))


if __name__ == "__main__":
    print("\n" + json.dumps(asdict(_look(sys.argv[1], int(sys.argv[2])))))
