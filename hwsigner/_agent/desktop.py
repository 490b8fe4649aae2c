"""Desktop notifications, which gdbus sends to the desktop of the user's session; on macOS, osascript does.

https://specifications.freedesktop.org/notification-spec/1.3/
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from functools import partial

from hwsigner._pins.child import VARIABLE
from hwsigner._system.notices import desktop_command
from hwsigner._system.workers import WorkQueue
from hwsigner.errors import printable

_PROGRAM = "gdbus"
_SERVICE = "org.freedesktop.Notifications"
_OBJECT = "/org/freedesktop/Notifications"
# Seconds that a desktop has for an answer, and then the program.
_CALL_LIMIT = 3
_PROGRAM_LIMIT = 5
# Milliseconds after which a desktop may remove a notification that was not closed, as when the agent was killed.
_LIFE = 120_000
_NORMAL, _CRITICAL = 1, 2


class Desktop:
    """Shows a notification for each profile that waits for the user. Thread-safe. It never waits and never fails.

    `environ` says where the session bus is. Without one, nothing is shown.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._queue = WorkQueue()
        self._shown: dict[str, int] = {}

    def show(self, name: str, text: str | None, *, is_urgent: bool = True) -> None:
        """Show a text in place of a profile's last notification, or close that one if the text is None.

        If it is urgent, the user has only seconds, so the desktop must not take it away before. On macOS, no program
        can close a notification.
        """
        if on_mac := desktop_command(_title(name), text or ""):
            if text:
                self._queue.submit(partial(self._run, on_mac))
        elif _has_bus(self._environ):
            self._queue.submit(partial(self._send, name, text, _CRITICAL if is_urgent else _NORMAL))

    def _send(self, name: str, text: str | None, urgency: int) -> None:
        last = self._shown.pop(name, 0)
        if text:
            from html import escape

            hints = f"{{'urgency': <byte {urgency}>, 'transient': <true>}}"
            title, body = _quoted(_title(name)), _quoted(escape(text, quote=False))  # Some desktops read HTML.
            words = "hwsigner", str(last), "dialog-password", title, body, "[]", hints, str(_LIFE)
            number = re.search(r"uint32 (\d+)", self._call("Notify", *words))
            if number:
                self._shown[name] = int(number[1])
        elif last:
            self._call("CloseNotification", str(last))

    def _call(self, method: str, *words: str) -> str:
        """Call a method of the desktop, and return what gdbus prints; nothing if that fails."""
        command = [_PROGRAM, "call", "--session", "--timeout", str(_CALL_LIMIT), "--dest", _SERVICE]
        command += ["--object-path", _OBJECT, "--method", f"{_SERVICE}.{method}", *words]
        return self._run(command)

    def _run(self, command: list[str]) -> str:
        """Return what a command prints; nothing if it fails."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: value for name, value in self._environ.items() if name != VARIABLE},
                timeout=_PROGRAM_LIMIT,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.decode("utf-8", "replace")


def _title(name: str) -> str:
    return f"AWS credentials: {name}"


def _has_bus(environ: Mapping[str, str]) -> bool:
    """Return whether there is a session bus. Without one, gdbus might start one."""
    folder = environ.get("XDG_RUNTIME_DIR")
    return bool(environ.get("DBUS_SESSION_BUS_ADDRESS") or (folder and os.path.exists(os.path.join(folder, "bus"))))


def _quoted(text: str) -> str:
    """Return a string as GVariant's text format has it."""
    return json.dumps(printable(text), ensure_ascii=False)
