"""Pinentries: real ones on a pseudo-terminal, and broken ones, which block no command and learn no PIN."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._pins import PinRequest, pinentry
from hwsigner._pins.pinentry import Pinentry, find_pinentry
from hwsigner.errors import PinError
from judges import needs_linux
from terminals import Terminal

REQUEST = PinRequest("user PIN", "token 'al%pha\x1b[2J'", "an earlier try failed", "42")
SHOWN = r"user PIN for token 'al%pha\x1b[2J' (serial 42, an earlier try failed)"
PROGRAM = f"""
import sys
from hwsigner.errors import HwsignerError
from hwsigner._pins import PinRequest
from hwsigner._pins.pinentry import Pinentry
try:
    print(ascii(Pinentry(sys.argv[1], answer_limit=float(sys.argv[2])).ask({REQUEST!r})))
except HwsignerError as error:
    print(type(error).__name__, error.exit_status, error)
"""
ODD_PINS = ["1234", "50%25", "%0A%", "pä✓ss", " a b ", "#+D OK", "x" * 100]


class TestRealPinentries:
    PROGRAMS = ("pinentry-curses", "pinentry-tty")

    def start(self, terminal: Terminal, program: str, limit: float = 20) -> subprocess.Popen[bytes]:
        """Start a question, and return when it is on the screen."""
        process = terminal.start(sys.executable, "-c", PROGRAM, program, str(limit), TERM="xterm")
        shown = terminal.shown_until("user PIN: ")
        assert SHOWN in shown
        terminal.wait_until_silent()
        return process

    @pytest.mark.parametrize("program", PROGRAMS)
    @pytest.mark.parametrize("pin", ODD_PINS)
    def test_pinentry_returns_what_is_typed(self, terminal: Terminal, program: str, pin: str) -> None:
        process = self.start(terminal, program)
        terminal.type(pin.encode() + b"\r")
        assert process.communicate(timeout=60) == (f"{pin!a}\n".encode(), b"")
        assert terminal.echoes()

    @pytest.mark.parametrize(("program", "keys"), [("pinentry-curses", b"12\t\t\r"), ("pinentry-tty", b"\x04")])
    def test_cancelled_question_is_a_pin_error(self, terminal: Terminal, program: str, keys: bytes) -> None:
        process = self.start(terminal, program)
        terminal.type(keys)
        words = f"PinError 3 the question for the {SHOWN} was cancelled\n"
        assert process.communicate(timeout=60) == (words.encode(), b"")
        assert terminal.echoes()

    @pytest.mark.slow
    @pytest.mark.parametrize("program", PROGRAMS)
    def test_unanswered_question_is_a_pin_error(self, terminal: Terminal, program: str) -> None:
        process = self.start(terminal, program, limit=1)
        words = f"PinError 3 the question for the {SHOWN} was not answered in time\n"
        assert process.communicate(timeout=60) == (words.encode(), b"")
        assert terminal.echoes()

    @pytest.mark.slow
    @pytest.mark.parametrize("program", PROGRAMS)
    def test_interruption_restores_the_terminal(self, terminal: Terminal, program: str) -> None:
        process = self.start(terminal, program)
        os.kill(process.pid, 2)
        out, err = process.communicate(timeout=60)
        assert (out, b"KeyboardInterrupt" in err) == (b"", True)
        assert terminal.echoes()

    @pytest.mark.slow
    @pytest.mark.parametrize("program", PROGRAMS)
    def test_end_by_sigterm_restores_the_terminal(self, terminal: Terminal, program: str) -> None:
        process = self.start(terminal, program)
        process.terminate()
        assert process.communicate(timeout=60) == (b"", b"")
        assert (process.returncode, terminal.echoes()) == (-15, True)

    def test_terminal_that_hangs_up_is_not_a_crash(self, tmp_path: Path) -> None:
        terminal = Terminal(tmp_path)
        process = terminal.start("nohup", sys.executable, "-c", PROGRAM, "pinentry-tty", "20", TERM="xterm")
        terminal.shown_until("user PIN: ")
        terminal.close()
        out, err = process.communicate(timeout=60)
        assert (out.startswith(b"PinError 3 "), err) == (True, b"")


Script = Callable[[str], str]
ANSWERS = """
import os, sys
print("OK here", flush=True)
for line in sys.stdin:
    open(sys.argv[0] + ".log", "a").write(line)
    print({answers}.get(line.split()[0], "OK"), flush=True)
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Return what writes a pinentry in Python and returns its path; there is a display."""
    monkeypatch.setenv("DISPLAY", ":99")

    def write(code: str) -> str:
        path = tmp_path / "pinentry"
        path.write_text(f"#!{sys.executable} -I\n{code}")
        path.chmod(0o700)
        return str(path)

    return write


def answering(script: Script, **answers: str) -> str:
    """Write a pinentry with some answers of its own and OK to everything else."""
    return script(ANSWERS.format(answers=answers))


class TestProtocol:
    def test_pinentry_gets_the_question_and_the_terminal(self, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pinentry, "_has_terminal", lambda: True)
        for name, value in {"TERM": "vt%100", "LANG": "de_DE.UTF-8", "LC_CTYPE": "C.UTF-8"}.items():
            monkeypatch.setenv(name, value)
        program = answering(script, GETPIN="D 1234\nOK")
        assert Pinentry(program).ask(REQUEST) == "1234"
        assert Path(f"{program}.log").read_text().splitlines() == [
            "OPTION ttyname=/dev/tty",
            "OPTION ttytype=vt%25100",
            "OPTION lc-ctype=C.UTF-8",
            "SETTIMEOUT 120",
            "SETTITLE hwsigner",
            f"SETDESC {SHOWN.replace('%', '%25')}",
            "SETPROMPT user PIN:",
            "GETPIN",
            "BYE",
        ]

    @given(
        subject=st.text(st.characters(exclude_categories=["Cs"]), max_size=3000), state=st.sampled_from(["", "locked"])
    )
    def test_any_label_makes_one_short_line(self, subject: str, state: str) -> None:
        line = f"SETDESC {pinentry._escaped(PinRequest('user PIN', subject, state).question)}"
        assert len(line.encode()) < 1000
        assert line.isprintable()
        assert state in line

    @pytest.mark.parametrize(
        ("answer", "pin"),
        {
            "D 12%2534%0D%0A%c3%a4\nOK": "12%34\r\nä",
            "D 12\n# a comment\nS PIN_REPEATED\nD 34\nOK": "1234",
            "OK": "",
            "D \nOK": "",
        }.items(),
    )
    def test_answer_is_unescaped(self, script: Script, answer: str, pin: str) -> None:
        assert Pinentry(answering(script, GETPIN=answer)).ask(REQUEST) == pin

    def test_unknown_option_is_ignored(self, script: Script) -> None:
        unknown = "ERR 83886254 Unknown option <Pinentry>"
        program = answering(script, OPTION=unknown, SETTIMEOUT=unknown, GETPIN="D 1\nOK", BYE="ERR 1 no")
        assert Pinentry(program).ask(REQUEST) == "1"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("code", "words"),
        {
            "print('ERR 83918950 Inappropriate ioctl\x1b[2J')": r"can't ask: Inappropriate ioctl\\x1b\[2J",
            "print('ERR')": "can't ask",
            "": "can't be run: it is not a pinentry, or has ended",
            "print('OK')": "can't be run: (it is not a pinentry, or has ended|Broken pipe)",
            "print('x' * 10**6)": "can't be run: it is not a pinentry",
            "for _ in range(99): print('D ' + 'x' * 4000)": "can't be run: it sends too much data",
            "import time; time.sleep(60)": "does not answer",
            "while True: print('# noise')": "does not answer",
            "print('OK', flush=True); import time; time.sleep(60)": "does not answer",
        }.items(),
    )
    def test_program_that_is_not_a_pinentry_is_an_error(self, script: Script, code: str, words: str) -> None:
        program = script(code)
        begin = time.monotonic()
        reply_limit = 0.5 if words == "does not answer" else 30
        with pytest.raises(PinError, match=f"pinentry {program} {words}"):
            Pinentry(program, answer_limit=0.2, reply_limit=reply_limit).ask(REQUEST)
        assert time.monotonic() - begin < 25

    @pytest.mark.slow
    def test_program_that_does_not_answer_is_an_error(self, script: Script) -> None:
        program = answering(script)
        Path(program).write_text(Path(program).read_text().replace("print({}", "line != 'GETPIN\\n' and print({}"))
        with pytest.raises(PinError, match="does not answer"):
            Pinentry(program, answer_limit=0.2, reply_limit=0.3).ask(REQUEST)

    @pytest.mark.slow
    def test_optional_pinentry_that_does_not_answer_returns_none(self, script: Script) -> None:
        program = script("import time; time.sleep(60)")
        assert Pinentry(program, is_optional=True, reply_limit=0.2).ask(REQUEST) is None

    def test_answer_that_is_not_text_is_not_shown(self, script: Script) -> None:
        with pytest.raises(PinError, match="not UTF-8") as caught:
            Pinentry(answering(script, GETPIN="D hunter2%ff\nOK")).ask(REQUEST)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__suppress_context__

    def test_pinentry_does_not_inherit_the_pin(self, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HWSIGNER_PIN", "4711")
        program = answering(script, GETPIN="D 1\nOK")
        path = Path(program)
        path.write_text(path.read_text().replace("print(", "assert 'HWSIGNER_PIN' not in os.environ; print(", 1))
        assert Pinentry(program).ask(REQUEST) == "1"


class TestChoice:
    @pytest.mark.parametrize(
        ("named", "environ", "program"),
        [
            (None, {}, None),
            (None, {"HWSIGNER_PINENTRY": ""}, None),
            (None, {"DISPLAY": ":0"}, "pinentry"),
            (None, {"WAYLAND_DISPLAY": "wayland-0"}, "pinentry"),
            ("none", {"DISPLAY": ":0", "HWSIGNER_PINENTRY": "x"}, None),
            (None, {"DISPLAY": ":0", "HWSIGNER_PINENTRY": "none"}, None),
            (None, {"HWSIGNER_PINENTRY": "pinentry-tty"}, "pinentry-tty"),
            ("/opt/p", {"HWSIGNER_PINENTRY": "pinentry-tty"}, "/opt/p"),
        ],
    )
    def test_pinentry_is_chosen_by_flag_variable_and_display(
        self, named: str | None, environ: dict[str, str], program: str | None
    ) -> None:
        found = find_pinentry(named, environ)
        assert (found and found.program) == program

    @needs_linux
    def test_pinentry_is_not_run_without_display_and_terminal(
        self, script: Script, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = script("open(__file__ + '.ran', 'w')")
        monkeypatch.delenv("DISPLAY")
        monkeypatch.setattr(pinentry, "_has_terminal", lambda: False)
        assert Pinentry(program).ask(REQUEST) is None
        assert not Path(f"{program}.ran").exists()

    @pytest.mark.parametrize("program", ["/nonexistent/pinentry", "/etc/passwd", "false"])
    def test_named_pinentry_must_exist(self, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DISPLAY", ":99")
        with pytest.raises(PinError, match=f"pinentry {program} can't be run") as caught:
            Pinentry(program).ask(REQUEST)
        assert "--pinentry" in caught.value.hint
        assert Pinentry(program, is_optional=True).ask(REQUEST) is None
