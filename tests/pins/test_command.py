"""`pin-source=cmd:`: no shell, the first line, limits of size and time, and no argument in an error."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulators import EMULATOR
from hwsigner._pins.child import MAX_PIN_BYTES
from hwsigner._pins.command import read_pin_command
from hwsigner.errors import PinError


def python(code: str) -> str:
    """Return a command that runs some Python, which holds no single quote."""
    return f"{sys.executable} -I -c '{code}'"


# No name of an emulator, which Hypothesis may have from this code: without the fixture `hardware`, none may be started.
@settings(max_examples=30)
@given(
    pin=st.text(st.characters(exclude_characters="\0\r\n'", exclude_categories=["Cs"]), min_size=1, max_size=64).filter(
        lambda pin: not EMULATOR.search(pin)
    )
)
def test_command_gets_quoted_arguments_unchanged(pin: str) -> None:
    assert read_pin_command(f"printf %s\\\\n '{pin}'") == pin


@pytest.mark.parametrize("text", ["$HOME", "`id`", "$(id)", "a;id", "a|id", "a&&id", "a>b", "*", "~", "#x"])
def test_command_gets_characters_of_a_shell_unchanged(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_pin_command(f"echo {text}") == text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("printed", "pin"),
    {
        "1234": "1234",
        "1234\\n": "1234",
        "1234\\r\\n": "1234",
        "1234\\nuser: me\\n": "1234",
        " 12 34 \\n\\n": " 12 34 ",
        "p\\303\\244ss\\n\\377": "päss",
    }.items(),
)
def test_pin_is_the_first_line(printed: str, pin: str) -> None:
    assert read_pin_command(f"printf '{printed}'") == pin


def test_pin_of_4096_bytes_is_the_longest() -> None:
    assert read_pin_command("printf '%04096d\\nmore' 1") == "1".zfill(MAX_PIN_BYTES)
    for command in ("printf %04097d 1", "printf '%0100000d\\n' 1"):
        with pytest.raises(PinError, match="more than 4096 bytes"):
            read_pin_command(command)


def test_output_after_the_first_line_is_read_and_dropped() -> None:
    assert read_pin_command(python('print("1234"); print("x" * 10**7)')) == "1234"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    {
        "sleep 4711": "did not end within 0.2 seconds",
        "yes 4711": "did not end within 0.2 seconds",
        python("import sys, time; print(1, flush=True); sys.stdout.close(); time.sleep(47)"): "did not end within",
        "false 4711": "exited with status 1",
        python("import os; print(4711, flush=True); os.kill(os.getpid(), 15)"): "was killed by signal 15",
        "/nonexistent/program 4711": "can't be run: No such file",
        "/etc/passwd 4711": "can't be run: Permission denied",
        "true 4711": "printed no PIN",
        "echo": "printed no PIN",
        "printf '\\n4711'": "printed no PIN",
        "printf '4711\\377\\n'": "not UTF-8",
        "": "names no command",
        "'' 4711": "names no command",
        "echo '4711": "open quote",
    }.items(),
)
def test_failure_shows_the_programs_name_and_no_argument(command: str, words: str) -> None:
    begin = time.monotonic()
    with pytest.raises(PinError, match=words) as caught:
        read_pin_command(command, 0.2 if "within" in words else 20.0)
    assert time.monotonic() - begin < 15
    assert caught.value.exit_status == 3
    assert "4711" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    if "command" not in words and "quote" not in words:
        assert repr(command.split()[0]) in caught.value.message


@pytest.mark.slow
def test_killed_program_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(PinError, match="within"):  # A shell, which starts at once.
        read_pin_command(f"sh -c 'echo $$ >{file}; exec sleep 60'", 2.0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_command_inherits_neither_the_pin_nor_the_streams(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HWSIGNER_PIN", "4711")
    monkeypatch.setenv("OTHER", "kept")
    code = (
        'import os, sys; os.write(2, b"noise"); '
        'print("HWSIGNER_PIN" in os.environ, os.environ["OTHER"], sys.stdin.read() == "", os.ttyname)'
    ).replace(", os.ttyname", "")
    assert read_pin_command(python(code)) == "False kept True"
    assert capfd.readouterr() == ("", "")
