"""Desktop notifications of a user's agent, on a session bus. A program with Debian's python3-dbus is the desktop."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest

import certs
from agent.homes import PASSPHRASE, Home, run_agent
from hwsigner._agent import desktop as module
from hwsigner._agent.client import command
from hwsigner._agent.desktop import Desktop
from hwsigner._agent.protocol import AgentRequest, Verb
from hwsigner._system import notices
from hwsigner.key import open_key
from judges import needs_desktop
from pkcs11_shim import Shim

TITLE = "AWS credentials: web"
TOUCH = "touch token 'one' if it blinks: waiting for its signature"
# Prints each call as a line of JSON. Numbers begin with 7. With the argument `hang`, it does not answer.
DESKTOP = """
import json, sys, time
import dbus, dbus.mainloop.glib, dbus.service
from gi.repository import GLib

NAME = "org.freedesktop.Notifications"

class Notifications(dbus.service.Object):
    last = 6

    @dbus.service.method(NAME, in_signature="susssasa{sv}i", out_signature="u")
    def Notify(self, app, replaces, icon, title, body, actions, hints, life):
        print(json.dumps([app, replaces, title, body, hints["urgency"]]), flush=True)
        while "hang" in sys.argv:
            time.sleep(1)
        self.last += not replaces
        return replaces or self.last

    @dbus.service.method(NAME, in_signature="u")
    def CloseNotification(self, number):
        print(json.dumps(["closed", number]), flush=True)

dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus()
name = dbus.service.BusName(NAME, bus, do_not_queue=True)
desktop = Notifications(bus, "/org/freedesktop/Notifications")
print(json.dumps("ready"), flush=True)
GLib.MainLoop().run()
"""


class Session:
    """A session bus in a folder, and perhaps a desktop on it.

    Attributes:
        environ: the environment of the session's programs.
    """

    def __init__(self, folder: Path) -> None:
        self.environ = {"PATH": "/usr/bin:/bin", "DBUS_SESSION_BUS_ADDRESS": f"unix:path={folder}/bus"}
        options = ("--session", "--nofork", "--nopidfile", "--print-address", f"--address=unix:path={folder}/bus")
        self._bus = subprocess.Popen(["dbus-daemon", *options], stdout=subprocess.PIPE)
        cast("IO[bytes]", self._bus.stdout).readline()
        self._desktop: subprocess.Popen[bytes] | None = None

    def start_desktop(self, *arguments: str) -> None:
        """Start a desktop, and wait until it is on the bus."""
        command = ["/usr/bin/python3", "-c", DESKTOP, *arguments]
        self._desktop = subprocess.Popen(command, env=self.environ, stdout=subprocess.PIPE)
        assert self.next() == "ready"

    def next(self) -> Any:
        """Return what the desktop was called with next."""
        assert self._desktop
        return json.loads(cast("IO[bytes]", self._desktop.stdout).readline())

    def rest(self) -> bytes:
        """Return what a desktop that was stopped has printed and was not read."""
        assert self._desktop
        return cast("IO[bytes]", self._desktop.stdout).read()

    def stop(self) -> None:
        """Stop both."""
        for process in filter(None, (self._desktop, self._bus)):
            process.kill()
            process.wait()

    def close(self) -> None:
        """Close their pipes."""
        for process in filter(None, (self._desktop, self._bus)):
            cast("IO[bytes]", process.stdout).close()


@pytest.fixture
def session(short_folder: Path) -> Iterator[Session]:
    session = Session(short_folder)
    yield session
    session.stop()
    session.close()


@needs_desktop
class TestDesktop:
    @pytest.mark.slow
    def test_text_is_shown_replaced_and_closed(self, session: Session) -> None:
        session.start_desktop()
        desktop = Desktop(session.environ)
        odd = "<b>'\"\\ % é 😀 & @as []"
        for text in ("touch", odd, None, None, "again"):
            desktop.show("web", text)
        desktop.show("other", "-x", is_urgent=False)
        shown = [session.next() for _ in range(5)]
        assert shown == [
            ["hwsigner", 0, TITLE, "touch", 2],
            ["hwsigner", 7, TITLE, odd.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"), 2],
            ["closed", 7],
            ["hwsigner", 0, TITLE, "again", 2],
            ["hwsigner", 0, "AWS credentials: other", "-x", 1],
        ]

    def test_text_of_a_hostile_token_is_shown_escaped(self, session: Session) -> None:
        session.start_desktop()
        Desktop(session.environ).show("web", "a\x00\x1b[31m\n\u202e\ud800\udcff")
        assert session.next()[3] == "a\\x00\\x1b[31m\\n\\u202e\\ud800\\udcff"

    def test_gdbus_does_not_get_the_pin(self, tmp_path: Path) -> None:
        program = tmp_path / "gdbus"
        program.write_text(f"#!/bin/sh\nexport > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/seen\n")
        program.chmod(0o755)
        environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "DBUS_SESSION_BUS_ADDRESS": "unix:", "HWSIGNER_PIN": "4711"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", environ["PATH"])
            desktop = Desktop(environ)
            desktop.show("web", "touch")
            desktop._queue.submit(lambda: None).result(30)
        assert "DBUS_SESSION_BUS_ADDRESS" in (tmp_path / "seen").read_text()
        assert "4711" not in (tmp_path / "seen").read_text()

    @pytest.mark.parametrize("case", ["no desktop", "no bus", "a dead bus", "no gdbus"])
    def test_nothing_fails_without_a_desktop(self, session: Session, case: str) -> None:
        environ = {
            "no desktop": session.environ,
            "no bus": {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": "/nonexistent"},
            "a dead bus": {"PATH": "/usr/bin:/bin", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent"},
            "no gdbus": {**session.environ, "PATH": "/nonexistent"},
        }[case]
        desktop = Desktop(environ)
        desktop.show("web", "touch")
        desktop.show("web", None)
        desktop._queue.submit(lambda: None).result(30)
        assert desktop._shown == {}


class TestMac:
    """`osascript` is a program that writes down its arguments and its environment."""

    @pytest.fixture
    def seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        program = tmp_path / "osascript"
        text = "import json, os, sys\nwith open(__file__ + '.seen', 'a') as file:\n"
        text += "    print(json.dumps([sys.argv[1:], dict(os.environ)]), file=file)\n"
        program.write_text(f"#!{sys.executable} -I\n{text}")
        program.chmod(0o755)
        monkeypatch.setattr(notices, "_OSASCRIPT", str(program))
        monkeypatch.setattr(sys, "platform", "darwin")
        return tmp_path / "osascript.seen"

    @pytest.mark.slow
    def test_text_is_an_argument_and_never_a_part_of_the_script(self, seen: Path) -> None:
        desktop = Desktop({"PATH": "/usr/bin:/bin", "HWSIGNER_PIN": "4711"})
        texts = ["touch", '" & (do shell script "id") & "', "-e", "a\nb\x00\u202e\ud800", "é 😀 \\ ' « »"]
        for text in texts:
            desktop.show('web" & quit & "', text)
        desktop.show("web", None)
        desktop._queue.submit(lambda: None).result(30)
        calls = [json.loads(line) for line in seen.read_text().splitlines()]
        script = ["-e", "on run argv"]
        script += ["-e", "display notification (item 2 of argv) with title (item 1 of argv)", "-e", "end run"]
        shown = ["touch", texts[1], "-e", "a\\nb\\x00\\u202e\\ud800", "é 😀 \\ ' « »"]
        assert [words for words, _ in calls] == [[*script, 'AWS credentials: web" & quit & "', text] for text in shown]
        assert not [environ for _, environ in calls if "HWSIGNER_PIN" in environ]

    def test_nothing_fails_without_osascript(self, seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(notices, "_OSASCRIPT", "/nonexistent")
        desktop = Desktop({})
        desktop.show("web", "touch")
        desktop._queue.submit(lambda: None).result(30)
        assert not seen.exists()


@pytest.fixture
def web(home: Home, shim: Shim) -> Callable[..., Home]:
    """Give the profile `web` a key in a token that waits for a touch, and more values."""
    pin = home.folder / "pin"
    pin.touch(0o600)
    pin.write_text("1234")
    uri = f"{shim.uri()}&pin-source=file:{pin}"
    with open_key(uri, allow_modules=True) as key:
        public_key = key.public_key()
    assert public_key
    (home.folder / "web.pem").write_bytes(certs.pem(certs.issue(home.ca, public_key)))
    shim.reset()

    def make(**values: Any) -> Home:
        home.write_profiles(web={"private-key": uri, **values})
        return home

    return make


@needs_desktop
class TestAgent:
    def test_notification_lasts_as_long_as_the_wait(
        self, web: Callable[..., Home], shim: Shim, session: Session
    ) -> None:
        session.start_desktop()
        shim.hold()
        with run_agent(web(), desktop=Desktop(session.environ)) as running, running.waiting(b"1 get web\n"):
            assert session.next() == ["hwsigner", 0, TITLE, TOUCH, 2]
            shim.hold(held=False)
            assert session.next() == ["closed", 7]

    def test_signature_does_not_wait_for_a_desktop_that_hangs(
        self, web: Callable[..., Home], shim: Shim, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for limit in ("_CALL_LIMIT", "_PROGRAM_LIMIT"):
            monkeypatch.setattr(module, limit, 60)
        session.start_desktop("hang")
        shim.hold()
        desktop = Desktop(session.environ)
        with run_agent(web(), desktop=desktop) as running:
            with running.waiting(b"1 get web\n"):
                assert session.next()[3] == TOUCH
                shim.hold(held=False)
            assert running.get().startswith(b"1 ok ")
            is_free = desktop._queue.submit(lambda: None)
            assert not is_free.done()
            session.stop()
            is_free.result(30)

    @pytest.mark.slow
    @needs_desktop
    def test_profile_that_needs_its_pin_says_so_once_until_it_is_unlocked(self, home: Home, session: Session) -> None:
        session.start_desktop()
        home.write_profiles(web={"private-key": str(home.encrypted_key("web"))})
        with run_agent(home, desktop=Desktop(session.environ)) as running:
            for _ in range(3):
                assert running.get().startswith(b"1 error 3 ")
            command(home.address, AgentRequest(Verb.UNLOCK, "web"), lambda _: PASSPHRASE)
            text = session.next()
            assert text[3].startswith("it is locked: ")
            assert text[3].endswith(" needs its passphrase. Run hwsigner agent unlock web")
            assert session.next() == ["closed", 7]
            command(home.address, AgentRequest(Verb.LOCK, "web"))
            assert running.get().startswith(b"1 error 3 ")  # The user has locked it, and knows.
            command(home.address, AgentRequest(Verb.UNLOCK, "web"), lambda _: PASSPHRASE)
        session.stop()
        assert session.rest() == b""

    @pytest.mark.parametrize("values", [{"desktop-notifications": False}, {"attended": False}])
    def test_nothing_is_shown_when_the_profile_says_so(
        self, web: Callable[..., Home], shim: Shim, session: Session, values: dict[str, bool]
    ) -> None:
        session.start_desktop()
        shim.hold()
        desktop = Desktop(session.environ)
        with run_agent(web(**values), desktop=desktop) as running, running.waiting(b"1 get web\n"):
            time.sleep(1)
            shim.hold(held=False)
            assert running.get().startswith(b"1 ok ")
        desktop.show("end", "of the test")
        assert session.next()[3] == "of the test"
