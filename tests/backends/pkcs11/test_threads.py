"""PKCS #11 keys in several threads: which of them wait, and that none waits for ever."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from any_module import open_key
from emulators import InProcessSoftHSM
from hwsigner._pins import PinRequest
from hwsigner.backends.pkcs11 import module as pkcs11_module
from hwsigner.errors import TokenRemovedError
from hwsigner.key import Key
from pkcs11_shim import Shim, run_alone

PATIENCE = 60.0


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> InProcessSoftHSM:
    for key_id, label in ((b"\x01", "P-256"), (b"\x02", "P-384")):
        softhsm.generate(label, key_id, "EC:prime256v1" if label == "P-256" else "EC:secp384r1")
    return softhsm


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run work in a thread during the body of the `with` statement, which must let it end."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield thread
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture
def keys(shim: Shim) -> Iterator[dict[str, Key]]:
    with open_key(shim.uri(), "1234") as one, open_key(shim.uri(token="two"), "1234") as two:
        yield {"one": one, "two": two}
        shim.reset()  # A failed test may have left a signature waiting.


# Waiting


def test_token_that_waits_for_a_touch_does_not_hold_up_others(
    shim: Shim, keys: dict[str, Key], hsm: InProcessSoftHSM
) -> None:
    shim.hold()
    with in_thread(lambda: keys["one"].sign(b"message")) as waiting:
        wait_until(shim.waiting)
        assert keys["two"].sign(b"message")
        for uri in (shim.uri("RSA-2048", "two"), f"pkcs11:token={hsm.label};object=P-256?module-path={hsm.module}"):
            with open_key(uri, "1234") as other:
                assert other.sign(b"message")
        assert waiting.is_alive()
        shim.hold(held=False)


def test_question_for_a_pin_does_not_hold_up_other_tokens(shim: Shim, keys: dict[str, Key]) -> None:
    keys["one"].close()
    asked, answered = threading.Event(), threading.Event()

    def ask(request: PinRequest) -> str:
        asked.set()
        assert answered.wait(PATIENCE)
        return "1234"

    with in_thread(lambda: open_key(shim.uri(), ask).close()) as waiting:
        assert asked.wait(PATIENCE)
        assert keys["two"].sign(b"message")
        with open_key(shim.uri("RSA-2048", "two"), "1234") as other:
            assert other.sign(b"message")
        assert waiting.is_alive()
        answered.set()


def test_removing_the_token_ends_the_wait_for_a_touch(shim: Shim, keys: dict[str, Key]) -> None:
    shim.hold()
    errors: list[Exception] = []

    def work() -> None:
        try:
            keys["one"].sign(b"message")
        except TokenRemovedError as error:
            errors.append(error)

    with in_thread(work):
        wait_until(shim.waiting)
        shim.remove()
    shim.hold(held=False)
    shim.insert()
    assert len(errors) == 1
    assert keys["one"].sign(b"message")


ONE_THREAD = """
import os, sys, threading
from any_module import open_key
from pkcs11_shim import Shim, run_alone
from pathlib import Path
shim = Shim(Path(sys.argv[1]), None, {})
shim.library.shim_refuse_locks(1)
asked, answered = threading.Event(), threading.Event()
def ask(request):
    asked.set()
    assert answered.wait(50)
    return "1234"
two = open_key(shim.uri(token="two"), "1234")
opened = []
opening = threading.Thread(target=lambda: opened.append(open_key(shim.uri(), ask)))
opening.start()
assert asked.wait(50)
two.sign(b"message")
answered.set()
opening.join()
keys = [two, opened[0]]
def work(number):
    for turn in range(25):
        keys[(number + turn) % 2].sign(b"message")
        if turn % 10 == 0:
            open_key(shim.uri("RSA-2048", ("one", "two")[number % 2]), "1234").close()
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(shim.count(43), shim.library.shim_overlaps())
"""


def test_module_that_refuses_threads_gets_one_call_at_a_time(loaded_shim: Shim) -> None:
    assert run_alone(ONE_THREAD, loaded_shim.path, loaded_shim.env, "one") == "201 0\n"


BY_OTHERS = """
import ctypes, os, sys
from hwsigner.backends.pkcs11 import module as pkcs11_module
from any_module import open_key
library = ctypes.CDLL(sys.argv[1])
library.C_Initialize(None)
key = open_key(f"{os.environ['URI']};object=P-256?module-path={sys.argv[1]}", "1234")
(module,) = pkcs11_module.modules.values()
print(len(key.sign(b"message")) > 60, module.functions.initialised)
key.close()
print(library.C_Initialize(None) == 0x191)
"""


def test_module_that_others_have_initialised_is_used_and_left_initialised(hsm: InProcessSoftHSM) -> None:
    assert run_alone(BY_OTHERS, hsm.module, hsm.env, hsm.label) == "True by others\nTrue\n"


def test_module_is_loaded_once_whatever_it_is_called(hsm: InProcessSoftHSM, tmp_path: Path) -> None:
    link = tmp_path / "module.so"
    link.symlink_to(hsm.module)
    for path in (hsm.module, link):
        open_key(f"pkcs11:token={hsm.label};object=P-256?module-path={path}", "1234").close()
    assert list(pkcs11_module.modules).count(os.path.realpath(hsm.module)) == 1
    assert str(link) not in pkcs11_module.modules


# Many threads


THREADS = """
import os, sys, threading
from any_module import open_key
uris = [f"{os.environ['URI']};object={label}?module-path={sys.argv[1]}" for label in ("P-256", "P-384")]
keys = [open_key(uri, "1234") for uri in uris[:int(os.environ["KEYS"])]]
signatures = []
def work(number):
    for turn in range(200):
        signatures.append(keys[number % len(keys)].sign(b"message"))
        if number == 7 and turn % 40 == 0:
            open_key(uris[0], "1234").close()
threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(set(signatures)))
"""


@pytest.mark.parametrize("count", ["1", "2"])
def test_sixteen_threads_sign_two_hundred_times_each(hsm: InProcessSoftHSM, count: str) -> None:
    assert run_alone(THREADS, hsm.module, hsm.env, hsm.label, KEYS=count) == "3200\n"


ALL_AT_ONCE = """
import os, sys, threading, time
from contextlib import suppress
from any_module import open_key
from hwsigner.backends.pkcs11 import module
from hwsigner.errors import TokenRemovedError
from pkcs11_shim import Shim
from pathlib import Path
module._FORK_SECONDS = 20  # A call under way may take long on a busy machine.
shim = Shim(Path(sys.argv[1]), None, {})
tokens = ("one", "two")
keys = [open_key(shim.uri(token=token), "1234") for token in tokens]
names = {"fork", "open one", "open two", "sign 0", "sign 1"}
counts = dict.fromkeys(names, 0)
deadline = time.monotonic() + 45
def is_over():
    return min(counts.values()) > 9 or time.monotonic() > deadline
def repeat(name, work):
    def run():
        while not is_over():
            work()
            counts[name] += 1
    thread = threading.Thread(target=run)
    thread.start()
    return thread
def open_and_close(token):
    # If SoftHSM reads a token's file while a child logs in, it misses the token until the next child has logged in.
    # A fork waits until the key is opened or has failed, so only another call can find the token again.
    while not is_over():
        with suppress(TokenRemovedError):
            return open_key(shim.uri("RSA-2048", token), "1234").close()
        time.sleep(0.1)
def fork():
    child = os.fork()
    if child == 0:
        os._exit(len(keys[0].sign(b"message")) < 60)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    time.sleep(0.02)
threads = [repeat(f"sign {n % 2}", lambda n=n: keys[n % 2].sign(b"message")) for n in range(4)]
threads += [repeat(f"open {t}", lambda t=t: open_and_close(t)) for t in tokens]
threads.append(repeat("fork", fork))
[thread.join(50) for thread in threads]
assert not any(thread.is_alive() for thread in threads)
print(min(counts.values()) > 9 or counts)
"""


def test_opening_closing_signing_and_forking_at_once_cause_no_deadlock(loaded_shim: Shim) -> None:
    assert run_alone(ALL_AT_ONCE, loaded_shim.path, loaded_shim.env, "one") == "True\n"
