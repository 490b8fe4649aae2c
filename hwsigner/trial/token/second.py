"""What a second process sees of a token while the first is logged in. It gets no PIN."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from hwsigner._pins.child import child_environment
from hwsigner.backends.pkcs11.functions import Functions
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.calls import TriedSession, answer
from hwsigner.trial.token.subject import TriedToken

_SECONDS = 120.0


class SecondLook(NamedTuple):
    """What the second process saw: whether its session is logged in, and the answer to C_GetInfo after C_Finalize."""

    state: str
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
        return SecondLook(*json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        raise NotAskedError("a second process could not use the module") from None


def _look(path: str, slot: int) -> SecondLook:
    functions = Functions(path)
    functions.initialise()
    functions.slots()
    state = answer(lambda: TriedSession(functions, slot).state())
    functions.finalise()
    return SecondLook(state, answer(functions.library))


if __name__ == "__main__":
    print("\n" + json.dumps(_look(sys.argv[1], int(sys.argv[2]))))
