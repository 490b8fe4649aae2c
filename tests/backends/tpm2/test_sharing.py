"""One TPM for several threads, processes, forked children and other programs, with and without a resource manager."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2_SE, TPMT_SYM_DEF

import judges
from backends.contract import openssl_verifies
from backends.tpm2.simulator import Simulator
from backends.tpm2.test_faults import SIGN, uri_through
from backends.tpm2.tpms import PASSWORD, Tools, handles_in, loaded_in
from hwsigner._pins import PinRequest
from hwsigner.backends.tpm2 import connection
from hwsigner.backends.tpm2 import tpm as tpm_module
from hwsigner.errors import BackendUnavailableError
from hwsigner.key import open_key
from hwsigner.key.management import generate_key
from judges import needs_tpm
from softhsm.command import run
from softhsm.tabrmd import ResourceManager
from softhsm.tpm import SoftTPM
from tpm_proxy import Fault, TPMProxy

LOAD, START_AUTH_SESSION, CREATE_PRIMARY, SHUTDOWN = 0x157, 0x176, 0x131, 0x145
# Prints signatures of a message, one per line, and one more for each line of stdin.
SIGNER = """
import sys
from hwsigner.key import open_key
uri, pin, count = sys.argv[1:4]
with open_key(uri, pin, allow_modules=True) as key:
    for _ in range(int(count)):
        print(key.sign(b"message").hex(), flush=True)
    for line in sys.stdin:
        print(key.sign(b"message").hex(), flush=True)
"""
TWO_KEYS = """
import sys
from hwsigner.key import open_key
uri, pin = sys.argv[1:3]
with open_key(uri, pin) as one, open_key(uri, pin) as another:
    for key in (one, another, one, another):
        print(key.sign(b"message").hex(), flush=True)
"""
ABANDONED = """
import sys
from hwsigner.key import open_key
key = open_key(sys.argv[1], sys.argv[2])
print(key.sign(b"message").hex(), flush=True)
"""
FORKED = """
import os, sys, warnings
warnings.simplefilter("ignore")  # Of a fork with threads: GLib has some.
from hwsigner.key import open_key
with open_key(sys.argv[1], sys.argv[2]) as key:
    print(key.sign(b"message").hex(), flush=True)
    child = os.fork()
    for _ in range(5):
        print(key.sign(b"message").hex(), flush=True)
    if child:
        os.waitpid(child, 0)
        print(key.sign(b"message").hex(), flush=True)
"""


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """End what a failed test has left running: it would use the next test's TPM."""
    yield
    while _started:
        with _started.pop() as process:
            process.kill()


@pytest.fixture
def manager(swtpm: SoftTPM) -> Iterator[ResourceManager]:
    with ResourceManager(swtpm) as made:
        yield made
    assert handles_in(swtpm) == []


def start(program: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a program in Python, with this process's folders for state and locks."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")}
    pipe = subprocess.PIPE
    environment = {**kept, "PYTHONPATH": str(Path(__file__).parents[3]), **(env or {})}
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    _started.append(process)
    return process


def signatures_of(process: subprocess.Popen[str]) -> list[bytes]:
    """Wait for a process, and return the signatures that it printed."""
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    return [bytes.fromhex(line) for line in output.split()]


@pytest.mark.parametrize("pin", ["", PASSWORD])
def test_threads_leave_nothing_in_the_tpm(tools: Tools, ec_file: Path, locked_file: Path, pin: str) -> None:
    path, times = (locked_file, 10) if pin else (ec_file, 100)
    public_key = tools.tpm.public_key(path, pin)
    with open_key(tools.tpm.uri(path), pin) as key, ThreadPoolExecutor(16) as pool:
        signatures = list(pool.map(lambda _: [key.sign(b"message") for _ in range(times)], range(16)))
    assert handles_in(tools.tpm) == []
    for signature in (signatures[0][0], signatures[7][5], signatures[15][-1]):
        assert openssl_verifies(tools.folder, public_key, signature, b"message", "sha256")


@pytest.mark.parametrize("is_managed", [False, True])
def test_six_processes_sign_at_once(
    tools: Tools, manager: ResourceManager, ec_file: Path, locked_file: Path, is_managed: bool
) -> None:
    tcti, env = (manager.tcti, manager.env) if is_managed else (tools.tpm.tcti, {})
    keys = [(ec_file, ""), (locked_file, PASSWORD)] * 3
    # Read before: openssl takes no turns, and would take a slot that these processes need.
    public_keys = [tools.tpm.public_key(path, pin) for path, pin in keys]
    processes = [start(SIGNER, f"tpm2:path={path}?tcti={tcti}", pin, "20", env=env) for path, pin in keys]
    for process, public_key in zip(processes, public_keys, strict=True):
        signatures = signatures_of(process)
        assert len(signatures) == 20
        assert openssl_verifies(tools.folder, public_key, signatures[-1], b"message", "sha256")


@pytest.mark.parametrize("pin", ["", PASSWORD])
def test_key_signs_after_its_resource_manager_restarted(
    tools: Tools, manager: ResourceManager, ec_file: Path, locked_file: Path, pin: str
) -> None:
    uri = f"tpm2:path={locked_file if pin else ec_file}?tcti={manager.tcti}"
    process = start(SIGNER, uri, pin, "1", env=manager.env)
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline()
    manager.stop_manager()
    manager.start_manager()
    process.stdin.write("\n")
    process.stdin.flush()
    assert len(signatures_of(process)) == 1


def test_key_is_loaded_once_behind_a_resource_manager(
    tools: Tools, manager: ResourceManager, locked_file: Path, short_folder: Path
) -> None:
    manager.stop_manager()
    with TPMProxy(tools.tpm, short_folder) as proxy:
        manager.start_manager(proxy.tcti)
        uri = f"tpm2:path={locked_file}?tcti={manager.tcti}"
        assert len(signatures_of(start(SIGNER, uri, PASSWORD, "5", env=manager.env))) == 5
        manager.stop_manager()
        taken = [exchange.code for exchange in proxy.exchanges if exchange.answer[6:10] == bytes(4)]
    assert taken.count(LOAD) == taken.count(START_AUTH_SESSION) == 1
    assert taken.count(CREATE_PRIMARY) == 2  # One to load the key under, one to salt the session.


def test_two_keys_share_a_session_behind_a_resource_manager(
    tools: Tools, manager: ResourceManager, locked_file: Path, short_folder: Path
) -> None:
    manager.stop_manager()
    with TPMProxy(tools.tpm, short_folder) as proxy:
        manager.start_manager(proxy.tcti)
        uri = f"tpm2:path={locked_file}?tcti={manager.tcti}"
        assert len(signatures_of(start(TWO_KEYS, uri, PASSWORD, env=manager.env))) == 4
        manager.stop_manager()
        taken = [exchange.code for exchange in proxy.exchanges if exchange.answer[6:10] == bytes(4)]
    assert taken.count(START_AUTH_SESSION) == 1


def test_key_is_loaded_once_and_saved_without_a_resource_manager(proxy: TPMProxy, ec_file: Path) -> None:
    with open_key(uri_through(proxy, ec_file)) as key:
        for _ in range(5):
            assert key.sign(b"message")
    taken = [exchange.code for exchange in proxy.exchanges if exchange.answer[6:10] == bytes(4)]
    assert taken.count(CREATE_PRIMARY) == taken.count(LOAD) == 1
    assert taken[-3:] == [0x161, 0x15D, 0x165]  # ContextLoad, Sign, FlushContext


def test_device_that_only_one_process_can_open_is_closed_between_uses(
    proxy: TPMProxy, locked_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /dev/tpm0. The saved context outlives the connection: the key is not loaded again."""
    monkeypatch.setattr(connection, "_EXCLUSIVE", ("swtpm:",))
    opened: list[ESAPI] = []

    class Counted(ESAPI):  # type: ignore[misc]
        def __init__(self, tcti: str) -> None:
            super().__init__(tcti)
            opened.append(self)

    monkeypatch.setattr(tpm_module, "ESAPI", Counted)
    with open_key(uri_through(proxy, locked_file), PASSWORD) as key:
        for _ in range(3):
            assert key.sign(b"message")
            assert all(esys.is_closed() for esys in opened)
        assert len(opened) >= 4
    taken = [exchange.code for exchange in proxy.exchanges if exchange.answer[6:10] == bytes(4)]
    assert taken.count(LOAD) == 1


def test_processes_take_turns_at_a_simulator_that_serves_one_connection(tools: Tools, locked_file: Path) -> None:
    with Simulator(tools.tpm) as simulator:
        uri = f"tpm2:path={locked_file}?tcti={simulator.tcti}"
        waiting = start(SIGNER, uri, PASSWORD, "1")  # With its key open, for a line of stdin.
        assert waiting.stdin
        assert waiting.stdout
        assert waiting.stdout.readline()
        for process in [start(SIGNER, uri, PASSWORD, "3") for _ in range(2)]:
            assert len(signatures_of(process)) == 3
        waiting.stdin.write("again\n")
        assert len(signatures_of(waiting)) == 1


def test_process_that_closes_nothing_leaves_nothing_in_the_tpm(tools: Tools, locked_file: Path) -> None:
    assert len(signatures_of(start(ABANDONED, tools.tpm.uri(locked_file), PASSWORD))) == 1
    assert handles_in(tools.tpm) == []


def test_full_tpm_says_how_to_make_room_when_processes_were_killed(
    proxy: TPMProxy, tools: Tools, ec_file: Path
) -> None:
    """Each leaves its key in one of the TPM's three slots. Opening a key takes two, for itself and for its parent."""
    uri = uri_through(proxy, ec_file)
    for _ in range(2):
        reached, may_go_on = threading.Event(), threading.Event()

        def wait_at_sign(command: bytes, reached: Event = reached, may_go_on: Event = may_go_on) -> Fault:
            if command[6:10] == SIGN.to_bytes(4):
                reached.set()
                may_go_on.wait(60)
                return "cut"
            return "pass"

        proxy.decide = wait_at_sign
        process = start(SIGNER, uri, "", "1")
        assert reached.wait(60)
        process.kill()
        process.communicate()
        may_go_on.set()
        proxy.decide = lambda command: "pass"
    with pytest.raises(BackendUnavailableError, match=r"no free slot.*Run tpm2_flushcontext -t if a killed program"):
        open_key(uri)
    run(["tpm2_flushcontext", "-t"], tools.tpm.env)
    with open_key(uri) as key:
        assert key.sign(b"message")


def test_sessions_that_run_out_are_an_error_that_says_how_to_make_room(tools: Tools, locked_file: Path) -> None:
    """A TPM has room for three loaded sessions."""
    esys = ESAPI(tools.tpm.tcti)
    no_cipher = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
    none = ESYS_TR.NONE
    for _ in range(3):
        esys.start_auth_session(none, none, TPM2_SE.HMAC, no_cipher, TPM2_ALG.SHA256)
    esys.close()
    with open_key(tools.tpm.uri(locked_file), PASSWORD) as key:
        with pytest.raises(BackendUnavailableError, match=r"no free session.*Run tpm2_flushcontext -l"):
            key.sign(b"message")
        run(["tpm2_flushcontext", "-l"], tools.tpm.env)
        assert key.sign(b"message")
    assert handles_in(tools.tpm) == []


def test_forked_child_signs_with_a_connection_of_its_own(tools: Tools, locked_file: Path) -> None:
    signatures = signatures_of(start(FORKED, tools.tpm.uri(locked_file), PASSWORD))
    assert len(signatures) == 12
    public_key = tools.tpm.public_key(locked_file, PASSWORD)
    for signature in signatures:
        assert openssl_verifies(tools.folder, public_key, signature, b"message", "sha256")


def test_forked_child_gets_an_error_when_the_key_is_behind_tabrmd(manager: ResourceManager, locked_file: Path) -> None:
    process = start(FORKED, f"tpm2:path={locked_file}?tcti={manager.tcti}", PASSWORD, env=manager.env)
    output, errors = process.communicate(timeout=60)
    assert len(output.split()) == 7
    assert "can't be reached through tabrmd in the child of a process that used it" in errors


@pytest.mark.usefixtures("hardware")
@needs_tpm
def test_key_signs_without_asking_again_after_its_tpm_restarted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    other = SoftTPM(tmp_path_factory.mktemp("restarted"))
    other.start()
    asked: list[PinRequest] = []

    def ask(request: PinRequest) -> str:
        asked.append(request)
        return PASSWORD

    try:
        path = other.folder / "key.pem"
        other.create_key_file(path, "EC:P-256", PASSWORD)
        other.persist(0x81000002, "ecc256", PASSWORD)
        Tools(other, other.folder).set_lockout(32)  # A TPM that was not shut down in order counts a failure.
        with open_key(other.uri(path), ask) as file_key, open_key(other.uri(0x81000002), PASSWORD) as handle_key:
            for _ in range(3):
                assert file_key.sign(b"message")
                assert handle_key.sign(b"message")
                other.restart()
        assert handles_in(other) == []
        assert len(asked) == 1
    finally:
        other.stop()


def test_emulated_resource_manager_is_ready_when_it_has_flushed_what_was_left(
    tools: Tools, manager: ResourceManager, short_folder: Path
) -> None:
    manager.stop_manager()
    tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", str(tools.path("primary")), flush=False)
    assert handles_in(tools.tpm)

    def wait(_: bytes) -> Fault:
        time.sleep(0.05)
        return "pass"

    with TPMProxy(tools.tpm, short_folder) as proxy:
        proxy.decide = wait
        manager.start_manager(proxy.tcti)
        assert handles_in(tools.tpm) == []
        manager.stop_manager()


def test_tpm_that_others_may_use_is_not_shut_down(tools: Tools, ec_file: Path, short_folder: Path) -> None:
    with TPMProxy(tools.tpm, short_folder) as proxy:
        with open_key(uri_through(proxy, ec_file)) as key:
            assert key.sign(b"message")
        codes = proxy.codes
    assert SIGN in codes
    assert SHUTDOWN not in codes


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The TCTI of a new TPM that is a library in each process that uses it."""
    monkeypatch.chdir(tmp_path)  # libtpms writes a file into the working folder too.
    return f"libtpms:{tmp_path / 'state'}"


@judges.needs_tpm2_tss
@pytest.mark.usefixtures("hardware")
class TestTPMInTheProcess:
    def test_it_is_shared_by_the_keys_of_the_process(self, in_process: str, tmp_path: Path) -> None:
        uri = f"tpm2:path={tmp_path / 'key.pem'}?tcti={in_process}"
        generate_key(uri, None, PASSWORD, allow_modules=True)
        with (
            open_key(uri, PASSWORD, allow_modules=True) as one,
            open_key(uri, PASSWORD, allow_modules=True) as another,
        ):
            public_key = one.public_key()
            assert public_key
            for key in (one, another, one):
                assert openssl_verifies(tmp_path, public_key, key.sign(b"message"), b"message", "sha256")

    def test_its_key_signs_in_one_process_after_another(self, in_process: str, tmp_path: Path) -> None:
        """A TPM that was not shut down in order counts a failure when it starts up: the third one locks the key."""
        uri = f"tpm2:path={tmp_path / 'key.pem'}?tcti={in_process}"
        generate_key(uri, None, PASSWORD, allow_modules=True)
        for _ in range(5):
            assert len(signatures_of(start(SIGNER, uri, PASSWORD, "3"))) == 3
        tpm = tpm_module.TPM(in_process, {}, set())
        assert (tpm.lockout().failures, loaded_in(tpm.esys)) == (0, [])
        tpm.close()
