"""Asking for a PIN: only on the terminal device, without echo."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from judges import needs_proc
from terminals import ROOT, Terminal

PROGRAM = """
import sys
from hwsigner._pins.terminal import ask_pin
from hwsigner._pins import PinRequest
print(repr(ask_pin(PinRequest(*sys.argv[1:]))))
"""
ASK = ("user PIN", "token 'alpha'")


def start(terminal: Terminal, *arguments: str, program: str = PROGRAM) -> subprocess.Popen[bytes]:
    return terminal.start(sys.executable, "-c", program, *arguments)


def test_threads_ask_one_after_another(terminal: Terminal) -> None:
    program = """
import argparse
from concurrent.futures import ThreadPoolExecutor
from hwsigner._cli.process import prompts
from hwsigner._pins import PinRequest
_, ask = prompts("none")
with ThreadPoolExecutor(4) as pool:
    print([*pool.map(lambda number: ask(PinRequest("PIN", str(number))), range(4))])
"""
    process = start(terminal, program=program)
    asked = set()
    for _ in range(4):
        prompt = terminal.shown_until(": ")
        number = prompt.strip()[-2]
        asked.add(prompt.strip())
        terminal.type(f"pin {number}\n".encode())
    out, err = process.communicate(timeout=30)
    assert (out, err) == (b"['pin 0', 'pin 1', 'pin 2', 'pin 3']\n", b"")
    assert asked == {f"PIN for {number}:" for number in range(4)}


@pytest.mark.parametrize(
    ("request_", "prompt"),
    [
        (ASK, "user PIN for token 'alpha': "),
        ((*ASK, "an earlier try failed"), "user PIN for token 'alpha' (an earlier try failed): "),
        ((*ASK, "one try is left", "42\x07"), "user PIN for token 'alpha' (serial 42\\x07, one try is left): "),
        (("passphrase", "a\x1b[2J\u202eb"), "passphrase for a\\x1b[2J\\u202eb: "),
    ],
)
def test_prompt_is_on_the_terminal_without_echo(terminal: Terminal, request_: tuple[str, ...], prompt: str) -> None:
    process = start(terminal, *request_)
    assert terminal.shown_until(prompt) == prompt
    terminal.type("hünter2\n".encode())
    out, err = process.communicate(b"not this", timeout=30)
    assert (out.decode(), err, process.returncode) == ("'hünter2'\n", b"", 0)
    assert terminal.shown_until("\n") == "\r\n"


def test_prompt_does_not_read_stdin(terminal: Terminal) -> None:
    process = start(terminal, *ASK, program=PROGRAM + "\nprint(sys.stdin.read())")
    terminal.shown_until(": ")
    terminal.type(b"1234\n")
    assert process.communicate(b"for another program", timeout=30)[0] == b"'1234'\nfor another program\n"


def test_earlier_input_is_not_a_pin(terminal: Terminal) -> None:
    process = start(terminal, *ASK, program=f"import sys\nsys.stdin.readline()\n{PROGRAM}")
    terminal.type(b"early\n")
    terminal.shown_until("early\r\n")
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()
    terminal.shown_until(": ")
    terminal.type(b"1234\n")
    assert process.communicate(timeout=30) == (b"'1234'\n", b"")


def test_empty_line_is_an_empty_pin(terminal: Terminal) -> None:
    process = start(terminal, *ASK)
    terminal.shown_until(": ")
    terminal.type(b"\n")
    assert process.communicate(timeout=30)[0] == b"''\n"


def test_end_of_file_is_not_a_pin(terminal: Terminal) -> None:
    process = start(terminal, *ASK)
    terminal.shown_until(": ")
    terminal.type(b"\x04")
    assert process.communicate(timeout=30)[:2] == (b"None\n", b"")


def test_echo_is_on_again_after_an_interruption(terminal: Terminal) -> None:
    process = start(
        terminal, *ASK, program=f"import hwsigner._cli as c\nc._run = lambda _: exec({PROGRAM!r})\nc.main()"
    )
    terminal.shown_until(": ")
    assert not terminal.echoes()
    terminal.type(b"12\x03")
    out, err = process.communicate(timeout=30)
    assert (out, err) == (b"", b"")
    assert terminal.echoes()


def test_interruption_ends_the_line_of_the_prompt_and_has_status_130(terminal: Terminal) -> None:
    program = f"import hwsigner._cli as c\nc._run = lambda _: exec({PROGRAM!r})\nsys.exit(c.main())"
    process = start(terminal, *ASK, program=f"import sys\n{program}")
    terminal.shown_until(": ")
    terminal.type(b"12\x03")
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130
    assert terminal.shown_until("\n").endswith("\r\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_echo_is_on_again_after_a_signal_that_ends_the_process(terminal: Terminal, number: signal.Signals) -> None:
    process = start(terminal, *ASK)
    terminal.shown_until(": ")
    terminal.wait_until_silent()
    process.send_signal(number)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == -number
    assert terminal.echoes()


def test_signals_are_as_before_after_a_prompt(terminal: Terminal) -> None:
    watched = "[signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)]"
    before = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nsignal.signal(signal.SIGQUIT, print)\n"
    program = f"{before}before = {watched}\n{PROGRAM}\nprint({watched} == before)"
    process = start(terminal, *ASK, program=program)
    terminal.shown_until(": ")
    terminal.type(b"1234\n")
    assert process.communicate(timeout=30) == (b"'1234'\nTrue\n", b"")


def test_input_that_is_not_text_is_not_shown(terminal: Terminal) -> None:
    program = f"import hwsigner._cli as c\nc._run = lambda _: exec({PROGRAM!r})\nraise SystemExit(c.main())"
    process = start(terminal, *ASK, program=program)
    terminal.shown_until(": ")
    terminal.type(b"hunter2\xff\n")
    out, err = process.communicate(timeout=30)
    text = b"hwsigner: the user PIN typed for token 'alpha' is not UTF-8 text\n"
    assert (out, err, process.returncode) == (b"", text, 3)


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE])
def test_prompt_returns_none_without_a_terminal(stdin: int) -> None:
    done = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *ASK],
        cwd=ROOT,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert done.communicate(b"1234\n" if stdin == subprocess.PIPE else None) == (b"None\n", b"")


def test_background_job_without_its_shell_does_not_read_stdin(terminal: Terminal) -> None:
    program = f"""
import os, sys
reading, writing = os.pipe()
if os.fork():  # The session's leader: if it ended, all would lose the terminal.
    os.close(writing)
    os.read(reading, 1)
    os._exit(0)
shell = os.getpid()
if os.fork():
    os._exit(0)
os.setpgid(0, 0)
while os.getppid() == shell:
    pass
{PROGRAM}"""
    process = start(terminal, *ASK, program=program)
    assert process.communicate(b"for another program\n", timeout=30) == (b"None\n", b"")


def test_terminal_that_hangs_up_gives_no_pin(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    program = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{PROGRAM}"
    process = start(terminal, *ASK, program=program)
    try:
        terminal.shown_until(": ")
    finally:
        terminal.close()
    assert process.communicate(b"for another program\n", timeout=30) == (b"None\n", b"")


RELEASE = """
import sys, threading
from hwsigner._pins.terminal import ask_pin, release_terminal
from hwsigner._pins import PinRequest
ask = lambda: ask_pin(PinRequest("PIN", "x"))
"""


def test_released_terminal_gives_no_pin(terminal: Terminal) -> None:
    process = start(terminal, program=f"{RELEASE}release_terminal()\nprint(ask())")
    assert process.communicate(timeout=30) == (b"None\n", b"")
    assert terminal.echoes()


def test_release_without_a_terminal_does_nothing() -> None:
    code = f"{RELEASE}release_terminal()\nprint(ask())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True)
    assert (done.stdout, done.stderr) == (b"None\n", b"")


def test_release_undoes_an_open_prompt(terminal: Terminal) -> None:
    code = f"{RELEASE}threading.Thread(target=ask, daemon=True).start()\nsys.stdin.read()\nrelease_terminal()"
    process = start(terminal, program=code)
    terminal.shown_until("PIN for x: ")
    assert not terminal.echoes()
    terminal.type(b"half a PI")
    assert process.communicate(timeout=30) == (b"", b"")
    assert terminal.echoes()


@needs_proc
def test_background_job_does_not_release_another_jobs_terminal(terminal: Terminal) -> None:
    """It is not stopped by SIGTTOU, and does not change the terminal."""
    code = f"""{RELEASE}
import os, time
if not os.fork():
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    sys.stdin.readline()
    while open(f"/proc/self/task/{{asking.native_id}}/wchan").read() != "wait_woken":
        time.sleep(0.01)  # A read of the terminal that begins later would stop the job, by SIGTTIN.
    os.setpgid(0, 0)
    release_terminal()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(-1, os.WUNTRACED)[1]))"""
    process = start(terminal, program=code)
    terminal.shown_until("PIN for x: ")
    assert process.communicate(b"\n", timeout=30) == (b"0\n", b"")
    assert not terminal.echoes()
