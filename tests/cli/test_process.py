"""The process of a command: what Ctrl-C does, and what stays unprinted."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import certs
from hwsigner._cli import main
from hwsigner._cli.process import discard_frames
from hwsigner.errors import HwsignerError

ROOT = Path(__file__).parents[2]


class HalfMade:
    """An object that is interrupted before it has what its finalizer needs."""

    finalized = 0

    def __init__(self) -> None:
        raise KeyboardInterrupt

    def __del__(self) -> None:
        HalfMade.finalized += 1
        print(self.file)  # type: ignore[attr-defined]


def test_errors_of_half_made_objects_are_not_printed_after_an_interrupt(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        HalfMade()

    before = HalfMade.finalized
    try:
        work()
    except KeyboardInterrupt as interruption:
        discard_frames(interruption)
    gc.collect()
    assert HalfMade.finalized == before + 1
    assert capfd.readouterr() == ("", "")


def test_errors_of_half_made_objects_are_not_printed_when_an_error_takes_the_interrupt_s_place(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: Sequence[str]) -> int:
        try:
            HalfMade()
        except KeyboardInterrupt:
            raise HwsignerError("interrupted", "Nothing was revoked") from None
        return 0

    monkeypatch.setattr("hwsigner._cli._run", run)
    before = HalfMade.finalized
    assert main(["list"]) == 1
    gc.collect()
    assert HalfMade.finalized == before + 1
    assert capfd.readouterr() == ("", "hwsigner: interrupted. Nothing was revoked\n")


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_command_that_changed_something_says_so_when_stdout_is_full(tmp_path: Path, more: list[str]) -> None:
    key, certificate = tmp_path / "web.key", tmp_path / "web.crt"
    issued = tmp_path / "issued"
    for arguments, done in (
        (["keygen", key], f"{key} was made"),
        (["install-certificate", issued, key], f"the certificate is installed as {certificate}"),
        (["delete", "--yes", key], f"the key in {key} was deleted"),
    ):
        if key.exists() and not issued.exists():
            public_key = load_pem_private_key(key.read_bytes(), None).public_key()
            issued.write_bytes(certs.pem(certs.issue(certs.make_ca(), public_key)))
        command = [sys.executable, "-m", "hwsigner", *map(str, arguments), *more]
        with open("/dev/full", "wb") as full:
            ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, text=True, timeout=60)
        assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
        assert ended.stderr.startswith(f"hwsigner: {done}, but stdout can't be written: No space left on device")
    assert not certificate.exists()


WAIT = """
import ctypes, os, signal, sys, threading, time
from hwsigner._cli import process
from hwsigner._system import notices

def interrupt():
    is_waiting.wait()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

case = sys.argv[1]
process._INTERRUPT_SECONDS = 0.5  # Enough for a busy machine.
if case == "handler":
    signal.signal(signal.SIGINT, lambda number, frame: os.write(1, b"handled\\n"))
notices.set_notifier(lambda line: None, *([] if case == "library" else [process.ExitOnInterrupt(7)]))
mutex, libc, is_waiting = ctypes.create_string_buffer(64), ctypes.CDLL(None), threading.Event()
libc.pthread_mutex_lock(mutex)
threading.Thread(target=interrupt).start()
sys.setswitchinterval(100)  # Only a call that waits lets the other thread run.
try:
    with notices.waiting("touch"), notices.waiting("touch again"):
        is_waiting.set()
        if case == "native":
            libc.pthread_mutex_lock(mutex)  # Never returns: it is locked, and no signal interrupts the call.
        for _ in range(50):
            time.sleep(0.01)
    time.sleep(0.2)
except KeyboardInterrupt:
    print("raised", flush=True)
    time.sleep(0.7)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "output", "status"),
    [("native", "", 7), ("python", "raised\n", 0), ("library", "raised\n", 0), ("handler", "handled\n", 0)],
)
def test_interrupt_ends_the_process_only_when_python_cannot_raise_it(case: str, output: str, status: int) -> None:
    command = [sys.executable, "-c", WAIT, case]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (done.stdout, done.returncode) == (output, status)
