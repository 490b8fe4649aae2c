"""A desktop that shows notifications, as far as a session bus sees it: each call is a line of JSON on stdout.

Debian's Python runs it, with python3-dbus and python3-gi.
"""

from __future__ import annotations

import json
import sys
import time

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

NAME = "org.freedesktop.Notifications"
FIRST = 7


class Notifications(dbus.service.Object):  # type: ignore[misc]
    """The desktop. With the argument `hang`, it never answers."""

    shown = 0

    @dbus.service.method(NAME, in_signature="susssasa{sv}i", out_signature="u")  # type: ignore[untyped-decorator]
    def Notify(
        self, app: str, replaces: int, icon: str, title: str, body: str, actions: list[str], hints: object, life: int
    ) -> int:
        """Show a notification, or replace one; return its number."""
        print(json.dumps({"app": app, "replaces": int(replaces), "title": title, "body": body}), flush=True)
        if "hang" in sys.argv:
            time.sleep(600)
        self.shown += not replaces
        return int(replaces) or FIRST - 1 + self.shown

    @dbus.service.method(NAME, in_signature="u")  # type: ignore[untyped-decorator]
    def CloseNotification(self, number: int) -> None:
        """Close a notification."""
        print(json.dumps({"closed": int(number)}), flush=True)


if __name__ == "__main__":
    dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
    bus = dbus.SessionBus()
    name = dbus.service.BusName(NAME, bus, do_not_queue=True)
    desktop = Notifications(bus, "/org/freedesktop/Notifications")
    print("ready", flush=True)
    GLib.MainLoop().run()
