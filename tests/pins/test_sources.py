"""Stored PINs in files, variables, systemd credentials and HWSIGNER_PIN: nothing is printed, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._pins.child import MAX_PIN_BYTES, child_environment
from hwsigner._pins.sources import read_pin_source, serial_credential, take_environment_pin, unnamed_pin
from hwsigner.errors import PinError, UnsafeKeyWarning
from judges import needs_proc
from pin_files import WritePinFile

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("forgotten_pins")


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "pin"),
        {
            b"1234": "1234",
            b"1234\n": "1234",
            b"1234\r\n": "1234",
            b"1234\n\n": "1234\n",
            b"1234\r": "1234\r",
            b" 1234 \n": " 1234 ",
            b"\n": "",
            b"": "",
            "pässword\n".encode(): "pässword",
            b"two\nlines\n": "two\nlines",
        }.items(),
    )
    def test_one_trailing_newline_is_dropped(self, write_pin_file: WritePinFile, content: bytes, pin: str) -> None:
        assert read_pin_source(write_pin_file(content)) == pin

    @given(pin=st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=64))
    def test_any_pin_is_read_with_and_without_a_newline(
        self, tmp_path_factory: pytest.TempPathFactory, pin: str
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any pin"
        for end in ("", "\n", "\r\n"):
            path.write_bytes((pin + end).encode())
            path.chmod(0o600)
            assert read_pin_source(f"file:{path}") == pin

    @pytest.mark.parametrize("authority", ["//", "//localhost"])
    def test_authority_may_be_empty_or_localhost(self, write_pin_file: WritePinFile, authority: str) -> None:
        assert read_pin_source(write_pin_file(b"1234").replace("file:", f"file:{authority}")) == "1234"

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777, 0o660])
    def test_file_that_others_can_write_is_refused(self, write_pin_file: WritePinFile, mode: int) -> None:
        source = write_pin_file(b"4711\n")
        path = Path(source.removeprefix("file:"))
        path.chmod(mode)
        with pytest.raises(PinError, match=f"{mode:04o}") as caught:
            read_pin_source(source)
        assert str(path) in caught.value.message
        assert f"chmod go-w {path}" in caught.value.hint
        assert caught.value.exit_status == 3

    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o644])
    def test_file_that_others_can_read_is_warned_of(self, write_pin_file: WritePinFile, mode: int) -> None:
        source = write_pin_file(b"1234\n")
        Path(source.removeprefix("file:")).chmod(mode)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert read_pin_source(source) == "1234"
        assert [type(warning.message) for warning in caught] == [UnsafeKeyWarning] * bool(mode & 0o044)

    def test_pin_of_4096_bytes_is_the_longest(self, write_pin_file: WritePinFile) -> None:
        assert len(read_pin_source(write_pin_file(b"1" * MAX_PIN_BYTES))) == MAX_PIN_BYTES
        with pytest.raises(PinError, match=str(MAX_PIN_BYTES)):
            read_pin_source(write_pin_file(b"1" * (MAX_PIN_BYTES + 1)))

    def test_endless_device_is_refused(self) -> None:
        with pytest.raises(PinError, match=f"/dev/zero has more than {MAX_PIN_BYTES}"):
            read_pin_source("file:/dev/zero")

    def test_pin_that_is_not_text_is_not_shown(self, write_pin_file: WritePinFile) -> None:
        source = write_pin_file(b"4711\xff")
        with pytest.raises(PinError, match="not UTF-8") as caught:
            read_pin_source(source)
        assert caught.value.__suppress_context__
        assert "4711" not in str(caught.value)

    @pytest.mark.parametrize(
        ("path", "words"), [("/nonexistent/pin", "No such file"), ("/", "Is a directory"), ("", "No such")]
    )
    def test_unreadable_file_is_named(self, path: str, words: str) -> None:
        with pytest.raises(PinError, match=words) as caught:
            read_pin_source(f"file:{path}")
        assert path in caught.value.message

    def test_path_alone_is_a_file(self, write_pin_file: WritePinFile) -> None:
        assert read_pin_source(write_pin_file(b"1234\n").removeprefix("file:")) == "1234"

    def test_pipe_is_read(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe, 0o644)
        writer = threading.Thread(target=lambda: pipe.write_bytes(b"1234\n"))
        writer.start()
        assert read_pin_source(f"file:{pipe}") == "1234"
        writer.join()

    def test_pipe_that_others_can_write_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        pipe.chmod(0o622)
        with pytest.raises(PinError, match="mode 0622"):
            read_pin_source(f"file:{pipe}")

    def test_pipe_of_another_user_is_refused_and_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        owner = pipe.stat().st_uid
        if owner == 0:
            os.chown(pipe, 12345, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.raises(PinError, match="belongs to user"):
            read_pin_source(f"file:{pipe}")

    def test_pipe_from_the_shell_is_read_whoever_made_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read, write = os.pipe()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        os.write(write, b"1234\n")
        os.close(write)
        try:
            assert read_pin_source(f"/dev/fd/{read}") == "1234"
        finally:
            os.close(read)

    @pytest.mark.parametrize(
        "source", ["4711", "x4711:/y", "path/4711", "https://4711", "", "env:4711", "env:", "ENV:A"]
    )
    def test_unknown_kind_of_source_is_refused_and_not_shown(self, source: str) -> None:
        with pytest.raises(PinError, match="pin-source=") as caught:
            read_pin_source(source)
        assert "4711" not in str(caught.value)

    def test_shell_command_is_refused_with_the_alternative(self) -> None:
        with pytest.raises(PinError, match="pin-source=cmd:") as caught:
            read_pin_source("|cat 4711", allow_commands=True)
        assert "4711" not in str(caught.value)


class TestVariables:
    @given(pin=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
    def test_variable_may_have_any_text(self, pin: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MY_PIN", pin)
            assert read_pin_source("env:MY_PIN") == pin

    def test_unset_variable_is_named(self) -> None:
        with pytest.raises(PinError, match="variable MY_PIN, named by pin-source, is not set") as caught:
            read_pin_source("env:MY_PIN")
        assert caught.value.exit_status == 3

    def test_pin_source_may_name_hwsigner_pin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HWSIGNER_PIN", "1234")
        assert [read_pin_source("env:HWSIGNER_PIN") for _ in range(2)] == ["1234", "1234"]
        assert "HWSIGNER_PIN" not in os.environ


class TestCredentials:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "credentials"
        folder.mkdir()
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
        return folder

    def write(self, path: Path, text: str = "1234\n", mode: int = 0o400) -> None:
        path.write_text(text)
        path.chmod(mode)

    @pytest.mark.parametrize("serial", ["42", "DENK0100751", "a b", "..", "x:y", "*"])
    def test_credential_is_found_by_serial_number(self, folder: Path, serial: str) -> None:
        assert serial_credential(serial, "token") is None
        self.write(folder / f"hwsigner.pin.{serial}")
        assert serial_credential(serial, "token") == "1234"
        assert serial_credential("other", "token") is None

    def test_first_token_with_a_serial_number_gets_its_credential(self, folder: Path) -> None:
        self.write(folder / "hwsigner.pin.42")
        given = [serial_credential("42", taker) for taker in ("token", "twin", "token", "twin")]
        assert given == ["1234", None, "1234", None]

    def test_pin_source_may_name_a_credential(self, folder: Path) -> None:
        self.write(folder / "any name.pin")
        assert read_pin_source("credential:any name.pin") == "1234"
        with pytest.raises(PinError, match="no systemd credential other, which pin-source names") as caught:
            read_pin_source("credential:other")
        assert "LoadCredentialEncrypted=other:" in caught.value.hint

    @pytest.mark.root
    @pytest.mark.parametrize(("mode", "warnings"), [(0o440, 0), (0o444, 1), (0o640, 1)])
    def test_path_of_a_credential_is_not_warned_of(
        self, folder: Path, mode: int, warnings: int, recwarn: pytest.WarningsRecorder
    ) -> None:
        self.write(folder / "card", mode=mode)
        assert read_pin_source(f"file:{folder}/card") == "1234"
        assert len(recwarn) == warnings

    @pytest.mark.parametrize("name", ["", ".", "..", "../4711", "/4711", "4711\n"])
    def test_pin_source_names_no_credential_outside_the_folder(self, folder: Path, name: str) -> None:
        self.write(folder.parent / "4711")
        with pytest.raises(PinError, match="names no systemd credential") as caught:
            read_pin_source(f"credential:{name}")
        assert "4711" not in str(caught.value)

    @pytest.mark.parametrize("serial", ["/../secret", "x/../../secret", "\n", "\x1b[2J", "ä", "", "9" * 300])
    def test_serial_number_never_leads_out_of_the_folder(self, folder: Path, serial: str) -> None:
        (folder / "hwsigner.pin.").mkdir()
        (folder / "hwsigner.pin.x").mkdir()
        self.write(folder / "secret")
        assert serial_credential(serial, "token") is None

    # systemd gives a service's user access by an access list. Its mask is shown as the group's bits.
    @pytest.mark.parametrize("mode", [0o400, 0o440, 0o444])
    def test_credential_is_not_warned_of_because_of_its_mode(self, folder: Path, mode: int) -> None:
        self.write(folder / "hwsigner.pin", mode=mode)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert unnamed_pin("key") == "1234"

    def test_credential_that_others_can_write_is_refused(self, folder: Path) -> None:
        self.write(folder / "hwsigner.pin", mode=0o666)
        with pytest.raises(PinError, match="0666"):
            unnamed_pin("key")

    def test_unreadable_credential_is_an_error_and_not_skipped(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HWSIGNER_PIN", "variable")
        (folder / "hwsigner.pin").symlink_to("/nonexistent")
        with pytest.raises(PinError, match=f"{folder}/hwsigner.pin"):
            unnamed_pin("key")

    def test_relative_or_missing_credentials_folder_is_ignored(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.write(folder / "hwsigner.pin")
        monkeypatch.chdir(folder)
        for name in ("", ".", "/nonexistent"):
            monkeypatch.setenv("CREDENTIALS_DIRECTORY", name)
            assert unnamed_pin("key") is None


class TestHwsignerPin:
    def test_variable_is_removed_from_the_environment_and_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HWSIGNER_PIN", "1234")
        assert [take_environment_pin(), take_environment_pin()] == ["1234", "1234"]
        assert "HWSIGNER_PIN" not in os.environ
        assert os.getenvb(b"HWSIGNER_PIN") is None

    def test_empty_variable_is_not_a_pin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HWSIGNER_PIN", "")
        assert take_environment_pin() is None
        assert "HWSIGNER_PIN" not in os.environ

    def test_variable_that_is_set_again_replaces_the_pin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = []
        for pin in ("first", "second"):
            monkeypatch.setenv("HWSIGNER_PIN", pin)
            found.append(unnamed_pin(pin))
        assert found == ["first", "second"]
        assert unnamed_pin("first") is None

    def test_child_does_not_inherit_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HWSIGNER_PIN", "1234")
        assert child_environment() == {k: v for k, v in os.environ.items() if k != "HWSIGNER_PIN"}

    # A Python program can't see its former environment, so another program looks at it through the kernel.
    SCRIPT = """
import os, subprocess, sys
from hwsigner._pins.sources import take_environment_pin
before = open("/proc/self/environ", "rb").read()
pin = take_environment_pin()
after = open("/proc/self/environ", "rb").read()
child = subprocess.run(["env"], capture_output=True).stdout
print(before.count(b"SECRET"), ascii(pin), after.count(b"SECRET"), child.count(b"SECRET"), len(before) == len(after))
print(after.replace(b"\\0", b" ").count(b"OTHER_HWSIGNER_PIN=kept"), child.count(b"OTHER_HWSIGNER_PIN=kept"))
"""

    @needs_proc
    def test_variable_is_overwritten_in_the_environment_block(self) -> None:
        environ = {"OTHER_HWSIGNER_PIN": "kept", "HWSIGNER_PIN": "SECRET=ä", "HWSIGNER_PINS": "x", "LANG": "C.UTF-8"}
        done = subprocess.run(
            [sys.executable, "-c", self.SCRIPT], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
        )
        assert done.stdout == "1 'SECRET=\\xe4' 0 0 True\n1 1\n"

    @needs_proc
    def test_second_variable_with_the_same_name_is_overwritten(self) -> None:
        # Only execve itself can give a variable twice.
        twice = (
            "import ctypes, sys\n"
            "array = lambda *items: (ctypes.c_char_p * (len(items) + 1))(*map(str.encode, items), None)\n"
            "ctypes.CDLL(None).execve(sys.executable.encode(), array(sys.executable, '-c', sys.argv[1]),"
            " array('HWSIGNER_PIN=SECRET1', 'OTHER_HWSIGNER_PIN=kept', 'HWSIGNER_PIN=SECRET2'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", twice, self.SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout == "2 'SECRET1' 0 0 True\n1 1\n"
