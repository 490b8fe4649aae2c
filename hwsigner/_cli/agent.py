"""`hwsigner agent`: run an agent, which gives out credentials on a Unix socket, or send a command to it."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain, repeat
from typing import TYPE_CHECKING

from hwsigner._cli.metrics import METRICS, metrics_output
from hwsigner._cli.monitoring import monitoring_values, open_log
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import asker, print_outcome, raise_descriptor_limit, report_thread_failures, signals_handled
from hwsigner._config.flags import OUTPUT, Flag, switch
from hwsigner._config.monitoring import MONITORING
from hwsigner._system import notices
from hwsigner._version import __version__
from hwsigner.errors import HwsignerError, UsageError, printable, suggestion

if TYPE_CHECKING:
    from hwsigner._agent.client import Address
    from hwsigner._agent.profile import ProfileStatus
    from hwsigner._agent.server import AgentServer
    from hwsigner._monitoring.metrics import ProfileHealth

HELP = "run the agent, which keeps credentials ready"

_HINTS = {
    "start": (
        "Write hwsigner agent, or systemctl --user enable --now hwsigner-agent.socket, on a Mac "
        "hwsigner launchd install"
    ),
    "restart": "Write hwsigner agent stop, then start one with hwsigner agent",
    "reload": "The agent reads a changed config.toml by itself",
}
_ACTIONS = ("status", "lock", "unlock", "refresh", "stop")
_FLAGS = (
    switch("system", "the system's agent, in /run/hwsigner, instead of the user's"),
    *OUTPUT,
    Flag("pinentry", "the program that asks for the PIN in unlock, or none", "PROGRAM"),
)


def add_arguments(parser: Parser) -> None:
    """Add the command for the agent, the profile's name and the flags."""
    parser.add_argument(
        "action", nargs="?", metavar="|".join(_ACTIONS), help="command for the running agent; omit to run one"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="profile for lock (default: all), unlock or refresh")
    parser.add_flags(_FLAGS, MONITORING, METRICS)


def run(arguments: Arguments) -> int:
    """Run an agent until SIGTERM; or send a command to the running one and print its answer."""
    from hwsigner._agent.client import system_address, user_address

    address = system_address() if arguments.system else user_address(os.environ)
    if arguments.action is None:
        if address.is_system:
            from hwsigner._system.support import require_linux

            require_linux("hwsigner agent --system", "Run hwsigner agent, for yourself")
        _run_agent(arguments, address)
    else:
        _command(arguments, address)
    return 0


def _command(arguments: Arguments, address: Address) -> None:
    from hwsigner._agent.client import command
    from hwsigner._agent.protocol import AgentRequest, Verb, is_name, parse_request

    action, name = arguments.action, arguments.name or ""
    if action not in _ACTIONS:
        hint = suggestion(action, _ACTIONS, f"Commands: {', '.join(_ACTIONS)}; omit to run an agent")
        hint = _HINTS.get(action, hint)
        raise UsageError(f"agent has no command {action[:40]!r}", hint)
    if name and not is_name(name):
        raise UsageError(f"a profile can't have the name {name[:100]!r}", "Names are letters, digits and ._@-")
    request = AgentRequest(Verb(action), name)
    if parse_request(request.line().removesuffix(b"\n")) is None:
        hint = f"Write hwsigner agent {action}{'' if name else ' NAME'}"
        raise UsageError(f"agent {action} takes {'no profile' if name else 'the name of a profile'}", hint)
    for flag, _ in arguments.given:
        if flag in MONITORING + METRICS:
            raise UsageError(f"--{flag.name} is for an agent that is started", f"Leave it out of agent {action}")
    if arguments.json and action != "status":
        raise UsageError(f"agent {action} has no JSON output", "Leave out --output json, which is for agent status")
    values = arguments.settings
    answer = command(address, request, asker(values.pinentry))
    rows = [line.split("\t") for line in answer.splitlines()]
    text = _status_json(answer) if arguments.json else "\n".join("\t".join(map(printable, row)) for row in rows)
    if action == "status":
        print(text)
    else:
        print_outcome(f"the agent has done {action!r}", text)


def _status_json(answer: str) -> str:
    from hwsigner._agent.protocol import read_status

    version, *rows = read_status(answer)
    data = {"agent": version[0], "process": version[1].removeprefix("process ")}
    names = ("name", "state", "expiration", "failure")
    profiles = [{name: text or None for name, text in zip(names, row, strict=True)} for row in rows]
    return json.dumps({**data, "profiles": profiles}, indent=2)


def _run_agent(arguments: Arguments, address: Address) -> None:
    from hwsigner._agent.listener import greet, open_listener, refuse
    from hwsigner._agent.memory import lock_process

    lock_process()  # This may fail, so no client can connect yet.
    with open_listener(address, os.environ) as listener:
        # Before anything that takes time: while the system boots, clients may already be waiting.
        waiting = greet(listener)
        try:
            is_closed = _serve(arguments, address, listener, waiting)
        except HwsignerError as error:
            refuse(listener, waiting, error)
            raise
    if not is_closed:
        os._exit(0)  # Without waiting for the thread of a key that hangs.


def _serve(
    arguments: Arguments, address: Address, listener: socket.socket, waiting: list[tuple[socket.socket, int]]
) -> bool:
    from hwsigner._agent.desktop import Desktop
    from hwsigner._agent.listener import removal_reported
    from hwsigner._agent.memory import LockedMemory
    from hwsigner._agent.profile import Shared
    from hwsigner._agent.profiles import Profiles
    from hwsigner._agent.server import AgentServer
    from hwsigner._monitoring.audit import open_audit
    from hwsigner._monitoring.metrics import Metrics
    from hwsigner._refresh.monitor import Monitor
    from hwsigner._system.signals import signals_wake
    from hwsigner._system.systemd import Notifier

    gc.enable()  # Unlike other commands, this one stays.
    raise_descriptor_limit()
    report_thread_failures()
    # The system's agent reads the system's file only.
    environ = {**os.environ, "XDG_CONFIG_HOME": "/etc"} if address.is_system else os.environ
    chosen = monitoring_values(arguments, environ)
    log = open_log(chosen)
    # The log does not wait for its reader. This is undone where the command line was read.
    warnings.showwarning = lambda message, *_: log.note(f"warning: {message}")
    memory, notifier = LockedMemory(log.note), Notifier(os.environ)
    monitor = Monitor(log, open_audit(chosen.audit_log, chosen.audit, rate=chosen.audit_rate, log=log.note))
    desktop = None if address.is_system else Desktop(environ)
    profiles = Profiles(Shared(environ, memory, log.note, address.is_system, monitor, desktop))
    server = AgentServer(
        listener,
        profiles,
        memory=memory,
        is_open=address.is_system,
        log=log.refused,
        give=monitor.given if monitor.wants_given else None,
    )
    notices.set_notifier(None)  # Each profile reports what its token waits for.
    monitor.metrics = Metrics(__version__, lambda: map(_state, profiles.statuses()))
    with ExitStack() as stack:
        stack.enter_context(metrics_output(arguments, monitor.metrics, log))
        stack.enter_context(signals_handled(_handlers(server)))
        stack.enter_context(signals_wake(server.wake))
        if not address.is_system:  # If that one's socket is removed, systemd makes it again.
            stack.enter_context(removal_reported(listener))
        return server.run(notifier, waiting)


def _state(status: ProfileStatus) -> ProfileHealth:
    from hwsigner._monitoring.metrics import ProfileHealth

    return ProfileHealth(status.name, status.state, status.expiration, status.failure.cause if status.failure else "")


def _handlers(server: AgentServer) -> dict[signal.Signals, Callable[..., None]]:
    """Stop at the first SIGTERM or SIGINT, end at the second; read the configuration again at SIGHUP.

    SIGIO says that a file in the socket's folder was removed.
    """
    ends = chain([server.stop], repeat(server.end))
    return {
        signal.SIGTERM: lambda *_: server.post(next(ends)),
        signal.SIGINT: lambda *_: server.post(next(ends)),
        signal.SIGHUP: lambda *_: server.post(server.reload),
        signal.SIGIO: lambda *_: server.post(server.look),
    }
