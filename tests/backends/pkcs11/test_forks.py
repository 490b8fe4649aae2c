"""PKCS #11 keys in a process that forks."""

from __future__ import annotations

import pytest

from emulators import InProcessSoftHSM
from pkcs11_shim import Shim, run_alone


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> InProcessSoftHSM:
    for key_id, label in ((b"\x01", "P-256"), (b"\x02", "P-384")):
        softhsm.generate(label, key_id, "EC:prime256v1" if label == "P-256" else "EC:secp384r1")
    return softhsm


FORK = """
import os, signal, sys, threading
from any_module import open_key
from hwsigner.backends.pkcs11 import module
module._FORK_SECONDS = 20  # A call under way may take long on a busy machine.
uri = f"{os.environ['URI']};object=P-256?module-path={sys.argv[1]}"
key = open_key(uri, "1234")
def keep_signing():
    while not done:
        key.sign(b"message")
done = []
thread = threading.Thread(target=keep_signing, daemon=True)
thread.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(50)
        key.sign(b"message")
        key.close()
        with open_key(uri, "1234") as another:
            another.sign(b"message")
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
done.append(True)
thread.join()
print(len(key.sign(b"message")) > 60)
"""


def test_child_signs_after_a_fork_and_so_does_its_parent(hsm: InProcessSoftHSM) -> None:
    assert run_alone(FORK, hsm.module, hsm.env, hsm.label) == "True\n"


FORKED_TOGETHER = """
import os, sys
from hwsigner.backends.pkcs11 import module
from hwsigner.errors import SigningKeyError
from any_module import open_key
module._PAUSE_SECONDS = 0.1  # On a busy machine, a process that logs in may keep the token's file empty for long.
uri = f"{os.environ['URI']};object=P-256?module-path={sys.argv[1]}"
key = open_key(uri, "1234")
key.sign(b"message")
def child():
    global key
    for _ in range(8):
        try:
            key = key or open_key(uri, "1234")
            key.sign(b"message")
            return 7
        except SigningKeyError as error:
            if "did not accept the login" not in error.message:
                raise
            key = key and key.close()
    return 8
statuses = []
for _ in range(8):
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = child()
            finally:
                os._exit(status)
        children.append(pid)
    statuses += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(len(statuses), set(statuses))
"""


def test_children_sign_when_they_log_in_at_once(hsm: InProcessSoftHSM) -> None:
    # SoftHSM writes to a token's file at each login. A login of another process may fail then, and is not repeated.
    assert run_alone(FORKED_TOGETHER, hsm.module, hsm.env, hsm.label) == "32 {7}\n"


FORK_WHILE_WAITING = """
import os, signal, sys, threading, time
from hwsigner.errors import BackendUnavailableError
from any_module import open_key
from pkcs11_shim import Shim, run_alone
from pathlib import Path
shim = Shim(Path(sys.argv[1]), None, {})
key = open_key(shim.uri(), "1234")
other = open_key(f"{os.environ['URI']};object=P-256?module-path={os.environ['OTHER']}", "1234")
shim.hold()
thread = threading.Thread(target=key.sign, args=(b"message",))
thread.start()
while not shim.waiting():
    time.sleep(0.01)
child = os.fork()
if child == 0:
    signal.alarm(50)
    assert other.sign(b"message")
    for _ in range(2):
        try:
            key.sign(b"message")
        except BackendUnavailableError as error:
            print(error.message, flush=True)
    key.close()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
shim.hold(held=False)
thread.join()
print(len(key.sign(b"message")) > 60)
"""


def test_fork_does_not_wait_for_a_touch(loaded_shim: Shim, hsm: InProcessSoftHSM) -> None:
    message = f"PKCS #11 module {loaded_shim.path} was busy when this process was forked, and can't be used in it\n"
    expected = f"{message}{message}7\nTrue\n"
    assert (
        run_alone(FORK_WHILE_WAITING, loaded_shim.path, {**loaded_shim.env, **hsm.env}, hsm.label, OTHER=hsm.module)
        == expected
    )


FORK_WHILE_ASKING = """
import os, signal, sys, threading
from any_module import open_key
uri = f"{os.environ['URI']};object=P-256?module-path={sys.argv[1]}"
asked, answered = threading.Event(), threading.Event()
def ask(request):
    asked.set()
    assert answered.wait(50)
    return "1234"
thread = threading.Thread(target=lambda: open_key(uri, ask).close())
thread.start()
assert asked.wait(50)
child = os.fork()
if child == 0:
    signal.alarm(50)
    open_key(uri, "1234").sign(b"message")
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
answered.set()
thread.join()
"""


def test_fork_does_not_wait_for_a_pin(hsm: InProcessSoftHSM) -> None:
    assert run_alone(FORK_WHILE_ASKING, hsm.module, hsm.env, hsm.label) == "7\n"
