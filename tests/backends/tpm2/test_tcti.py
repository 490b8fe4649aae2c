"""Which TPM is used, and the errors for one that can't be reached."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

import pytest

from hwsigner._system import host
from hwsigner._uri import KeyURI
from hwsigner.backends.tpm2 import errors, uris
from hwsigner.backends.tpm2.errors import unavailable
from hwsigner.backends.tpm2.uris import is_tabrmd_running, tcti_of
from hwsigner.errors import BackendUnavailableError, UsageError
from hwsigner.key import find_certificates, open_key
from hwsigner.key.listing import list_tokens
from judges import needs_linux
from softhsm.tabrmd import ResourceManager
from softhsm.tpm import SoftTPM

HANDLE = KeyURI.parse("handle:0x81000001")


@pytest.fixture(autouse=True)
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Paths in place of /dev/tpmrm0 and /dev/tpm0, at which there is nothing; and no D-Bus."""
    paths = {name: tmp_path / name for name in ("tpmrm0", "tpm0")}
    for module in (errors, uris):
        monkeypatch.setattr(module, "DEVICES", tuple(map(str, paths.values())))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/hwsigner-none")
    return paths


class TestWhichTPM:
    @pytest.mark.parametrize(
        ("present", "first"), [(["tpm0"], "tpm0"), (["tpmrm0"], "tpmrm0"), (["tpm0", "tpmrm0"], "tpmrm0")]
    )
    def test_kernel_resource_manager_is_preferred_to_the_device(
        self, devices: dict[str, Path], present: list[str], first: str
    ) -> None:
        for name in present:
            devices[name].touch()
        assert tcti_of(HANDLE) == f"device:{devices[first]}"

    def test_uri_and_variables_take_precedence_in_this_order(
        self, devices: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        devices["tpmrm0"].touch()
        named = [("TPM_DEVICE", "/dev/tpm7", "device:/dev/tpm7"), ("TPM2TOOLS_TCTI", "b", "b"), ("TPM2_TCTI", "a", "a")]
        for name, value, tcti in named:
            monkeypatch.setenv(name, value)
            assert tcti_of(HANDLE) == tcti
        assert tcti_of(HANDLE.with_query("tcti", "swtpm:port=1")) == "swtpm:port=1"

    def test_empty_variable_is_ignored(self, devices: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        devices["tpm0"].touch()
        for name in ("TPM_DEVICE", "TPM2TOOLS_TCTI", "TPM2_TCTI"):
            monkeypatch.setenv(name, "")
        assert tcti_of(HANDLE) == f"device:{devices['tpm0']}"

    def test_no_tpm_is_an_error_that_says_where_it_was_looked_for(self, devices: dict[str, Path]) -> None:
        with pytest.raises(BackendUnavailableError) as caught:
            open_key(HANDLE)
        absent = " and no ".join(map(str, devices.values()))
        assert caught.value.message == f"found no TPM: tabrmd is not running, and there is no {absent}"
        assert "--tcti" in caught.value.hint

    @needs_linux
    @pytest.mark.usefixtures("devices")
    @pytest.mark.parametrize(
        ("owner", "name", "value", "words"),
        [(host, "is_wsl", lambda: True, "WSL gives Linux no TPM"), (sys, "platform", "darwin", "A Mac has no TPM")],
        ids=["WSL", "Mac"],
    )
    def test_no_tpm_in_wsl_or_a_mac_is_not_to_be_enabled_in_the_firmware(
        self, owner: ModuleType, name: str, value: object, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(owner, name, value)
        with pytest.raises(BackendUnavailableError) as caught:
            open_key(HANDLE)
        assert caught.value.hint.startswith(f"{words}: use a YubiKey; if it is elsewhere, ")


class TestTabrmd:
    @pytest.fixture
    def tabrmd(
        self, swtpm: SoftTPM, devices: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[ResourceManager]:
        """A tabrmd on a bus in place of the system's, beside the kernel's resource manager."""
        devices["tpmrm0"].touch()
        monkeypatch.setattr(uris, "_SECONDS", 20.0)
        with ResourceManager(swtpm) as manager:
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", manager.env["DBUS_SESSION_BUS_ADDRESS"])
            yield manager

    def test_tabrmd_is_used_while_it_runs(self, tabrmd: ResourceManager, devices: dict[str, Path]) -> None:
        assert tcti_of(HANDLE) == "tabrmd"
        assert tcti_of(HANDLE.with_query("tcti", "swtpm:port=1")) == "swtpm:port=1"
        tabrmd.stop_manager()
        assert tcti_of(HANDLE) == f"device:{devices['tpmrm0']}"
        tabrmd.start_manager()
        assert tcti_of(HANDLE) == "tabrmd"

    def test_key_signs_through_tabrmd(self, ec_file: Path, tabrmd: ResourceManager, tmp_path: Path) -> None:
        # In a process of its own: GLib ends the one whose bus goes away.
        command = [sys.executable, "-m", "hwsigner", "sign-string", "--private-key", str(ec_file)]
        environment = {name: os.environ[name] for name in ("PATH", "DBUS_SYSTEM_BUS_ADDRESS")} | {"HOME": str(tmp_path)}
        signed = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert (signed.returncode, signed.stderr) == (0, b"")

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"REJECTED EXTERNAL\r\n",
            b"OK 1234\r\n",
            b"OK 1234\r\nl\2\1\1" + struct.pack("<III", 4, 1, 8) + b"\5\1u\0" + struct.pack("<I", 9) + b"\1\0\0\0",
            b"OK 1234\r\nl\2\1\1" + struct.pack("<III", 2, 1, 8) + b"\5\1u\0" + struct.pack("<I", 2) + b"\1\0",
        ],
        ids=["nothing", "refusal", "silence", "another answer", "too little"],
    )
    def test_tabrmd_is_not_used_when_the_bus_answers_garbage(
        self, short_folder: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
    ) -> None:
        path = str(short_folder / "bus")
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={quote(path)},guid=1")
        with answering(path, answer):
            assert not is_tabrmd_running()

    def test_tabrmd_is_not_used_when_the_bus_is_silent(
        self, short_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = str(short_folder / "bus")
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
        monkeypatch.setattr(uris, "_SECONDS", 0.01)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            assert not is_tabrmd_running()

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("owned", [0, 1])
    def test_bus_may_answer_in_either_byte_order(
        self, short_folder: Path, monkeypatch: pytest.MonkeyPatch, order: str, owned: int
    ) -> None:
        path = str(short_folder / "bus")
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"tcp:host=::1,port=1;unix:path={path}")
        letter = b"l" if order == "<" else b"B"
        signal = letter + b"\4\1\1" + struct.pack(f"{order}III", 0, 1, 0)
        reply = letter + b"\2\1\1" + struct.pack(f"{order}III", 4, 2, 8)
        reply += b"\5\1u\0" + struct.pack(f"{order}II", 2, owned)
        with answering(path, b"OK 1234\r\n" + signal + reply):
            assert is_tabrmd_running() is bool(owned)

    @pytest.mark.parametrize("address", ["", "tcp:host=::1,port=1", "unix:abstract=x", "unix:path=/hwsigner-none"])
    def test_tabrmd_is_not_used_without_a_bus(self, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        assert not is_tabrmd_running()


@contextmanager
def answering(path: str, answer: bytes) -> Iterator[None]:
    """Listen on a Unix socket, and answer a client before reading anything."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(60)


@pytest.mark.parametrize(
    "start",
    ["cmd:", "libtss2-tcti-cmd.so.0:", "pcap:cmd:", "libtss2-tcti-pcap.so:cmd:", "libtss2-tctildr.so.0:cmd:", ":cmd:"],
)
def test_tcti_of_a_uri_runs_no_program_unless_it_is_allowed(start: str, tmp_path: Path) -> None:
    uri = f"tpm2:handle=0x81000001?tcti={quote(f'{start}touch {tmp_path}/ran')}"
    for use in (open_key, find_certificates):
        with pytest.raises(UsageError, match=f"TCTI {start}.* can load, run, write or send any file") as caught:
            use(uri)
        assert "allow_modules=True" in caught.value.hint
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("tcti", ["/tmp/x.so", "/tmp/x.so:path=/y", "./x.so:", "../../tmp/x:y"])
def test_tcti_of_a_uri_is_no_path_to_a_library_unless_it_is_allowed(tcti: str) -> None:
    uri = f"tpm2:handle=0x81000001?tcti={quote(tcti)}"
    with pytest.raises(UsageError, match="can load, run, write or send any file"):
        open_key(uri)
    with pytest.raises(UsageError, match="can load, run, write or send any file"):
        list(list_tokens(f"tpm2:?tcti={quote(tcti)}"))
    with pytest.raises(BackendUnavailableError, match="can't be loaded"):
        open_key(uri, allow_modules=True)


@pytest.mark.parametrize("start", ["device:", "device:/dev/../", "libtpms:", "libtss2-tcti-device.so.0:"])
def test_tcti_of_a_uri_writes_no_file_unless_it_is_allowed(start: str, tmp_path: Path) -> None:
    victim = tmp_path / "notes"
    victim.write_text("what no command to a TPM may overwrite")
    with pytest.raises(UsageError, match="can load, run, write or send any file"):
        open_key(f"tpm2:handle=0x81000001?tcti={quote(f'{start}{victim}')}")
    assert victim.read_text() == "what no command to a TPM may overwrite"


@pytest.mark.parametrize("tcti", ["swtpm:host=127.0.0.1,port=1", "mssim:port=1,host=127.0.0.1", "swtpm:path=a,host=b"])
def test_tcti_of_a_uri_names_no_other_host_unless_it_is_allowed(tcti: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    uri = f"tpm2:handle=0x81000001?session=plain&tcti={quote(tcti)}&pin-source=file:{secret}"
    with pytest.raises(UsageError, match="can load, run, write or send any file"):
        open_key(uri)


@pytest.mark.parametrize(
    "tcti", ["device", "device:/dev/tpmrm7", "device:/dev/tpm7", "tabrmd:bus_type=none", "mssim:port=1"]
)
def test_tcti_of_a_uri_may_be_a_known_one(tcti: str) -> None:
    with pytest.raises(BackendUnavailableError):
        open_key(f"tpm2:handle=0x81000001?tcti={quote(tcti)}")


def test_tcti_of_the_environment_may_be_any(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TPM2_TCTI", f"cmd:touch {tmp_path}/ran")
    with pytest.raises(BackendUnavailableError):
        open_key(HANDLE)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("tcti", "message"),
    [
        ("device:/dev/hwsigner-none", "there is no TPM device /dev/hwsigner-none"),
        ("device:/dev/null", "TPM device /dev/null does not answer"),
        ("swtpm:path=/hwsigner-none/socket", "the TPM at swtpm:path=/hwsigner-none/socket does not answer"),
        ("none-such:x", "TCTI none-such:x can't be loaded.*libtss2-tcti-none-such"),
        ("swtpm:nonsense=1", "the TPM at swtpm:nonsense=1 does not answer"),
    ],
)
def test_missing_tpm_is_an_error_that_names_it(ec_file: Path, tcti: str, message: str) -> None:
    for name in (f"path={ec_file}", "handle=0x81000001"):
        with pytest.raises(BackendUnavailableError, match=message):
            open_key(f"tpm2:{name}?tcti={quote(tcti)}", allow_modules=True)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, r"no permission to use TPM device /dev/null\. Join its group \(root\)"),
        (errno.EBUSY, r"TPM device /dev/null is in use by another program\. Use the resource manager"),
        (errno.EIO, "TPM device /dev/null can't be opened: Input/output error"),
    ],
)
def test_device_that_can_not_be_opened_is_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    opened = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if path == "/dev/null":
            raise OSError(number, os.strerror(number))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BackendUnavailableError, match=message):
        open_key("tpm2:handle=0x81000001?tcti=device:/dev/null", allow_modules=True)


@pytest.mark.parametrize("name", ["TPM2_TCTI", "TPM2TOOLS_TCTI"])
def test_error_names_the_variable_that_names_the_tpm(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "swtpm:path=/hwsigner-none")
    with pytest.raises(BackendUnavailableError, match=rf"the TPM at swtpm:path=/hwsigner-none \({name}\) does not"):
        open_key(HANDLE)
    with pytest.raises(BackendUnavailableError, match="the TPM at swtpm:path=/hwsigner-other does not"):
        open_key(HANDLE.with_query("tcti", "swtpm:path=/hwsigner-other"))


def test_error_names_the_variable_that_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPM_DEVICE", "/dev/hwsigner-none")
    with pytest.raises(BackendUnavailableError, match=r"there is no TPM device /dev/hwsigner-none \(TPM_DEVICE\)"):
        open_key(HANDLE)


def test_error_of_tabrmd_names_the_group_to_join() -> None:
    error = unavailable("tabrmd", OSError("silence"))
    assert (error.message, "group tss" in error.hint) == ("the TPM at tabrmd does not answer: silence", True)
    assert "--tcti" in unavailable("mssim", OSError("silence")).hint


def test_error_names_the_default_device(devices: dict[str, Path]) -> None:
    assert unavailable("device", OSError("silence")).message == f"there is no TPM device {devices['tpmrm0']}"
