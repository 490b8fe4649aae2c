"""pcscd in namespaces of its own: what can be seen from outside, and what is said when it does not work."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hwsigner.key import open_key
from softhsm.command import ToolError
from softhsm.pcsc import SoftPcsc
from softhsm.pcsc_namespace import PORT
from softhsm.yubikey import OPENSC, YKCS11, YubiKey, find_module
from yubikeys import succeed

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("hardware")


def pid_of(folder: Path) -> int:
    path = folder / "pcscd.pid"
    while not path.exists() or not (text := path.read_text().rstrip("\n\0")):  # pcscd writes it after it is ready.
        time.sleep(0.005)
    return int(text)


def test_vpcd_cannot_be_reached_from_outside(yubikey: YubiKey) -> None:
    for reader in (0, 1):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", PORT + reader), timeout=5).close()


def test_pcscd_leaves_nothing_in_run(pcsc: SoftPcsc) -> None:
    assert (pcsc.folder / "pcscd.comm").is_socket()
    outside = Path("/run/pcscd/pcscd.comm")
    assert not outside.exists() or not outside.samefile(pcsc.folder / "pcscd.comm")


@pytest.mark.parametrize("module", [YKCS11, OPENSC])
def test_key_signs_in_this_process(yubikey: YubiKey, module: str, tmp_path: Path) -> None:
    yubikey.generate(0x9A)
    yubikey.self_sign(0x9A, "in process")
    with open_key(yubikey.uri(0x9A, module), yubikey.pin) as key:
        assert key.public_key() == yubikey.public_key(0x9A)
        (tmp_path / "signature").write_bytes(key.sign(b"message"))
    (tmp_path / "public.der").write_bytes(yubikey.public_key(0x9A))
    key_file = ("-verify", tmp_path / "public.der", "-keyform", "DER", "-signature", tmp_path / "signature")
    succeed("openssl", "dgst", "-sha256", *key_file, input=b"message")
    assert yubikey.pin_tries == [0x9000]


def test_card_can_be_replaced_by_another(pcsc: SoftPcsc, yubikey: YubiKey, tmp_path: Path) -> None:
    other = YubiKey(tmp_path / "card.json", 20000002)
    yubikey.remove()
    other.insert(pcsc)
    try:
        assert "Serial Number:\t20000002" in succeed("yubico-piv-tool", "-a", "status")
    finally:
        other.remove()


SIGN_WITH_TWO_CARDS = """
import sys, threading
import pkcs11

sessions = [token.open(user_pin=sys.argv[2]) for token in pkcs11.lib(sys.argv[1]).get_tokens()]
private = pkcs11.ObjectClass.PRIVATE_KEY
first, second = (session.get_key(object_class=private, id=b"\\1") for session in sessions)
signing = threading.Thread(target=first.sign, args=[bytes(32)], kwargs={"mechanism": pkcs11.Mechanism.ECDSA})
signing.start()
input()
second.sign(bytes(32), mechanism=pkcs11.Mechanism.ECDSA)
print(signing.is_alive(), flush=True)
signing.join()
"""


def test_card_that_waits_for_a_touch_does_not_hold_up_others(
    pcsc: SoftPcsc, yubikey: YubiKey, new_yubikey: Callable[[], YubiKey]
) -> None:
    other = new_yubikey()
    yubikey.generate(0x9A, touch_policy=2)
    other.generate(0x9A)
    other.insert(pcsc, 1)
    command = [sys.executable, "-c", SIGN_WITH_TWO_CARDS, find_module(YKCS11), yubikey.pin]
    pipe = subprocess.PIPE
    try:
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            assert yubikey.sensor.wait_until_asked()
            assert process.stdin
            assert process.stdout
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "True\n"
            yubikey.touch()
            _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")
    finally:
        other.remove()


def test_reader_takes_one_card(pcsc: SoftPcsc, yubikey: YubiKey) -> None:
    listed = succeed("yubico-piv-tool", "-a", "list-readers")
    assert listed.splitlines() == [f"Yubico YubiKey OTP+FIDO+CCID 00 {reader:02X}" for reader in (0, 1)]
    with pytest.raises(ToolError, match="accepts no card in reader 7"):
        pcsc.insert(7)


def test_pcscd_stops_and_starts_again(short_folder: Path) -> None:
    daemon = SoftPcsc(short_folder)
    for _ in range(2):
        daemon.start()
        pid = pid_of(short_folder)
        assert Path(f"/proc/{pid}/comm").read_text() == "pcscd\n"
        daemon.stop()
        assert not Path(f"/proc/{pid}").exists()
        assert not (short_folder / "pcscd.comm").exists()
    with pytest.raises(ToolError, match="not started"):
        daemon.insert(0)


def test_pcscd_ends_with_the_process_that_started_it(short_folder: Path) -> None:
    code = "import sys; from pathlib import Path; from softhsm.pcsc import SoftPcsc\n"
    code += "daemon = SoftPcsc(Path(sys.argv[1])); daemon.start(); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(short_folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        pid = os.pidfd_open(pid_of(short_folder))
        process.send_signal(signal.SIGKILL)
    with os.fdopen(pid) as ended:
        assert select.select([ended], [], [], 60)[0]


def test_pcscd_starts_for_an_ordinary_user(short_folder: Path) -> None:
    short_folder.chmod(0o777)
    # Another user may not be able to read these sources where they are.
    shutil.copytree(ROOT / "softhsm", short_folder / "softhsm", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from pathlib import Path; from softhsm.pcsc import SoftPcsc\n"
    code += "daemon = SoftPcsc(Path('pcscd').absolute()); daemon.start(); print('started'); daemon.stop()"
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    command = [*as_nobody, "/usr/bin/python3", "-c", code]
    done = subprocess.run(command, cwd=short_folder, capture_output=True, text=True, timeout=60)
    assert done.stdout == "started\n", done.stderr


def test_error_says_that_namespaces_are_missing(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unshare = short_folder / "bin" / "unshare"
    unshare.parent.mkdir()
    unshare.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", f"{unshare.parent}:{os.environ['PATH']}")
    with pytest.raises(ToolError, match=r"its own namespaces .*root.*Operation not permitted"):
        SoftPcsc(short_folder / "pcscd").start()


def test_error_names_a_folder_whose_path_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="shorter path"):
        SoftPcsc(tmp_path / ("long" * 30)).start()


def test_error_names_a_missing_module() -> None:
    with pytest.raises(ToolError, match=r"libmissing\.so is not installed"):
        find_module("libmissing.so")


def test_card_can_be_used_by_hand(short_folder: Path) -> None:
    def shell(*lines: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "softhsm.yubikey_shell", str(short_folder / "key")]
        data = "".join(f"{line}\n" for line in lines)
        return subprocess.run(command, cwd=ROOT, input=data, capture_output=True, text=True, timeout=60)

    first = shell("remove", "insert", "dance", "quit")
    assert (first.returncode, first.stderr) == (0, "one of: touch, remove, insert, log, quit\n")
    uris = [line for line in first.stdout.splitlines() if line.startswith("pkcs11:")]
    assert len(uris) == 6
    state = (short_folder / "key" / "card.json").read_bytes()
    second = shell()
    assert (second.returncode, second.stderr) == (0, "")
    assert first.stdout == f"{second.stdout}remove: done\ninsert: done\nquit: done\n"
    assert (short_folder / "key" / "card.json").read_bytes() == state
