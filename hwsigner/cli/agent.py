"""`hwsigner agent`: hold identities and their sessions, and answer on a Unix socket; and what a person asks of it."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import TYPE_CHECKING

from hwsigner.cli.log import Log
from hwsigner.cli.parser import Parser
from hwsigner.cli.process import forbid_dumps, raise_descriptor_limit, report_thread_failures
from hwsigner.config.flags import Flag, switch
from hwsigner.errors import UsageError, printable
from hwsigner.pins import PinRequest
from hwsigner.pins.terminal import ask_pin
from hwsigner.system import notices

if TYPE_CHECKING:
    from hwsigner.agent.address import Place
    from hwsigner.agent.server import Server

HELP = "hold sessions for hwsigner-credentials: status, lock, unlock, refresh, stop"

_ACTIONS = ("status", "lock", "unlock", "refresh", "stop")
_FLAGS = (
    switch("system", "the system's agent, in /run/hwsigner, and not the user's own"),
    Flag("pinentry", "the program that asks for the PIN of unlock, or none", "PROGRAM"),
)


def add_arguments(parser: Parser) -> None:
    """Add what to do, with which profile, and the command's flags."""
    parser.add_argument("action", nargs="?", metavar="|".join(_ACTIONS), help="what the agent shall do; none: be one")
    parser.add_argument("name", nargs="?", help="the profile to lock (all without), unlock or refresh")
    parser.add_flags(_FLAGS)


def run(arguments: argparse.Namespace) -> int:
    """Be the agent until SIGTERM, or let the one that runs do something and print what it says."""
    from hwsigner.agent.address import system_place, user_place

    place = system_place() if arguments.system else user_place(os.environ)
    if arguments.action is None:
        _be_agent(place)
    else:
        _command(arguments, place)
    return 0


def _command(arguments: argparse.Namespace, place: Place) -> None:
    from hwsigner.agent.client import command
    from hwsigner.agent.protocol import Request, Verb, is_name, parse_request

    action, name = arguments.action, arguments.name or ""
    if action not in _ACTIONS:
        hint = f"Without one it is the agent itself; actions: {', '.join(_ACTIONS)}"
        raise UsageError(f"agent has no action {action[:40]!r}", hint)
    if name and not is_name(name):
        raise UsageError(f"a profile can't have the name {name[:100]!r}", "Names are letters, digits and ._@-")
    request = Request(Verb(action), name)
    if parse_request(request.line().removesuffix(b"\n")) is None:
        hint = f"Write hwsigner agent {action}{'' if name else ' NAME'}"
        raise UsageError(f"agent {action} takes {'no profile' if name else 'the name of a profile'}", hint)
    print(*map(_shown, command(place, request, _asker(arguments.pinentry)).splitlines()), sep="\n")


def _shown(line: str) -> str:
    return "\t".join(map(printable, line.split("\t")))


def _asker(pinentry: str | None) -> Callable[[PinRequest], str | None]:
    def ask(request: PinRequest) -> str | None:
        from hwsigner.pins.pinentry import find_pinentry

        found = find_pinentry(pinentry, os.environ)
        pin = found.ask(request) if found else None
        return ask_pin(request) if pin is None else pin

    return ask


def _be_agent(place: Place) -> None:
    from hwsigner.agent.listener import open_listener
    from hwsigner.agent.memory import LockedMemory
    from hwsigner.agent.profile import Surroundings
    from hwsigner.agent.profiles import Roster
    from hwsigner.agent.server import Server
    from hwsigner.system.systemd import Notifier

    forbid_dumps()
    gc.enable()  # Unlike other commands, this one stays.
    raise_descriptor_limit()
    report_thread_failures()
    log = Log()
    notices.set_notifier(log.note)
    # The log's, which waits for nobody who reads it. It is put back where the command's line was read.
    warnings.showwarning = lambda message, *_: log.note(f"warning: {message}")
    memory, notifier = LockedMemory(), Notifier(os.environ)
    # The user's file of a system's agent is the system's.
    environ = {**os.environ, "XDG_CONFIG_HOME": "/etc"} if place.is_systems else os.environ
    with open_listener(place, os.environ) as listener:
        roster = Roster(Surroundings(environ, memory, log.note), is_systems=place.is_systems)
        server = Server(listener, roster, memory=memory, is_open=place.is_systems, log=log.refused)
        with _signals(server):
            is_closed = server.run(notifier)
    if not is_closed:
        os._exit(0)  # Past the thread of a key that hangs.


@contextmanager
def _signals(server: Server) -> Iterator[None]:
    """Stop at the first SIGTERM or SIGINT, end at the second; read the configuration anew at SIGHUP."""
    ends = chain([server.stop], repeat(server.end))
    handlers: dict[signal.Signals, Callable[..., None]] = {
        signal.SIGTERM: lambda *_: server.post(next(ends)),
        signal.SIGINT: lambda *_: server.post(next(ends)),
        signal.SIGHUP: lambda *_: server.post(server.reload),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
