"""The agent's client in Python: asks for credentials, as hwsigner-credentials does, sends commands, starts an agent.

Agents listen at a socket in the user's runtime folder, or at the system's; never in /tmp. Only the folder's owner can
create a socket in it, so the other end must be that user; or root, as systemd may listen for the agent.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from hwsigner._agent import protocol
from hwsigner._agent.protocol import AgentRequest, Channel, Head, Verb
from hwsigner._pins import AskPin, PinRequest
from hwsigner._pins.child import VARIABLE as PIN_VARIABLE
from hwsigner._system import notices
from hwsigner._system.users import RUN, login_folder, peer_uid
from hwsigner.errors import AgentError, PinRequiredError

if TYPE_CHECKING:
    import subprocess

SYSTEM_FOLDER = f"{RUN}/hwsigner"
# `none`: no agent is asked or started. `asked`: hwsigner-credentials has asked the agents, so they are not asked again.
# Any other value has no effect. `native/credentials.c` has the same rule.
VARIABLE = "HWSIGNER_AGENT"
CONNECT_LIMIT = 1.0
# Seconds for the start of the system's agent, and between two attempts to reach it. Go's SDK waits 60 s for a process.
START_LIMIT = 45.0
_PAUSE = 0.2
# Seconds that a command waits for the question that another one asks.
_QUESTION_LIMIT = 60.0
_ACCESS_KEY_ID = b'"AccessKeyId"'
# Seconds between two attempts to enter a queue that is full.
_QUEUE_PAUSE = 0.01
_START_SYSTEM = "Have root run systemctl restart hwsigner-agent.socket, or start hwsigner agent --system in a container"


class Address(NamedTuple):
    """Where an agent listens: a folder, and whether it is the system's agent."""

    folder: str
    is_system: bool

    @property
    def socket(self) -> str:
        """The path of the socket."""
        return f"{self.folder}/agent.sock"

    def owner(self) -> int | None:
        """Return the uid of the folder's owner, or None if the folder is missing or can't be trusted."""
        try:
            status = os.lstat(self.folder)
        except OSError:
            return None
        is_mine = status.st_uid == os.geteuid()
        return status.st_uid if is_closed_folder(status) and (is_mine or self.is_system) else None


def is_closed_folder(status: os.stat_result) -> bool:
    """Return whether a file is a folder that only its owner can write to."""
    return stat.S_ISDIR(status.st_mode) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def runtime_folder(environ: Mapping[str, str]) -> str:
    """Return the user's runtime folder, which may be missing: XDG_RUNTIME_DIR if it is absolute, else the login's."""
    folder = environ.get("XDG_RUNTIME_DIR", "")
    return folder if folder.startswith("/") else login_folder()


def user_address(environ: Mapping[str, str]) -> Address:
    """Return where the user's agent listens."""
    return Address(f"{runtime_folder(environ)}/hwsigner", is_system=False)


def system_address() -> Address:
    """Return where the system's agent listens."""
    return Address(SYSTEM_FOLDER, is_system=True)


def find_credentials(
    name: str, environ: Mapping[str, str] = os.environ, *, ask_pin: AskPin | None = None
) -> bytes | None:
    """Return the JSON that `credential_process` prints, with a newline, from a running agent.

    Asks the user's agent; if there is none, or it does not know the profile, the system's. With HWSIGNER_AGENT=none or
    =asked, and after an agent that can't be used, no agent is asked. Each way to credentials begins with this.
    `ask_pin` asks the user for a PIN that the user's agent needs, if there is a terminal; None to ask no one. A PIN is
    sent once: if the agent fails afterwards, so does this. Returns None if no agent can be used, or none knows the
    profile. An AgentError is an agent's own answer and has the exit status.
    """
    try:
        return _find(name, environ)
    except AgentError as error:
        if ask_pin is None or error.reason != protocol.NEEDS_PIN:
            raise
        return _find_unlocked(name, environ, ask_pin, error)


def _find(name: str, environ: Mapping[str, str]) -> bytes | None:
    if environ.get(VARIABLE) in ("none", "asked") or not protocol.is_name(name):
        return None
    for address in (user_address(environ), system_address()):
        try:
            head, body = _get(address, name, protocol.FIRST_BYTE_LIMIT)
        except (AgentError, OSError):
            return None  # It hangs or can't be trusted. The next agent's profile of this name may be another.
        if head.kind != "unknown":
            return _credentials(head, body)
    return None


def _find_unlocked(name: str, environ: Mapping[str, str], ask_pin: AskPin, error: AgentError) -> bytes | None:
    """Have the user unlock a profile of the user's agent; return what `_find` does then.

    One command at a time asks, and the others then find the profile unlocked.
    """
    from hwsigner._pins.terminal import has_terminal

    if not has_terminal():
        raise error
    address = user_address(environ)
    with _one_question(address, name):
        try:
            return _find(name, environ)
        except AgentError as again:
            if again.reason != protocol.NEEDS_PIN:
                raise
        try:
            command(address, AgentRequest(Verb.UNLOCK, name), ask_pin)
        except PinRequiredError:
            raise error from None
        return _find(name, environ)


@contextmanager
def _one_question(address: Address, name: str) -> Iterator[None]:
    """Keep this user's other commands from asking, by a lock on the agent's folder, which is in this user's hands."""
    from hwsigner._system.files import lock_within

    try:
        folder = os.open(address.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # It was removed, and with it the agent's socket.
        yield
        return
    try:
        if not lock_within(folder, 0.0):
            notices.notify(f"{name}: another command asks for its PIN")
            lock_within(folder, _QUESTION_LIMIT)
        yield
    finally:
        os.close(folder)


def wait_for_system_agent(name: str) -> bytes | None:
    """Return what `find_credentials` does, from the system's agent, which may be starting; None if nothing listens.

    systemd listens for an agent that starts, or starts again after a crash, so clients can connect and get no answer.
    It is an AgentError too if none came within START_LIMIT, or if nothing listens and the profile may be in the
    system's file, which this user can't read.
    """
    if os.environ.get(VARIABLE) == "none" or not protocol.is_name(name):
        return None
    deadline = time.monotonic() + START_LIMIT
    while (rest := deadline - time.monotonic()) > 0:
        try:
            head, body = _get(system_address(), name, rest)
        except (AgentError, OSError):
            time.sleep(min(_PAUSE, rest))
        else:
            if head.kind == "unknown":
                _refuse_without_agent(name)
                return None
            return _credentials(head, body)
    hint = "Look for the reason with journalctl -u hwsigner-agent"
    raise AgentError(f"the system's agent did not answer within {START_LIMIT:.0f} s", hint)


def _refuse_without_agent(name: str) -> None:
    """Raise an AgentError if the system's agent may have a profile, and nothing listens for it."""
    from hwsigner._config import profiles

    if profiles.is_system_file_hidden() and not is_running(system_address()):
        hidden = f"you can't read {profiles.SYSTEM_FILE}, which may have profile {name!r}"
        raise AgentError(f"no agent listens at {system_address().socket}, and {hidden}", _START_SYSTEM)


def _get(address: Address, name: str, limit: float) -> tuple[Head, bytes]:
    """Return an agent's answer; `unknown` if there is no agent. What a token waits for is shown as a notice."""
    with_notes = True
    while True:
        with connected(address) as channel:
            if channel is None:
                return Head("unknown"), b""
            channel.send(AgentRequest(Verb.GET, name, with_notes).line())
            try:
                return channel.answer(limit, notices.notify)
            except AgentError:
                if not (with_notes and channel.is_refused):
                    raise
        with_notes = False  # An agent of an earlier version refuses that.


def _credentials(head: Head, body: bytes) -> bytes:
    """Return the body of an answer with credentials. They are not parsed, which would cost a command a tenth more."""
    if _ACCESS_KEY_ID not in _checked(head, body):
        raise AgentError("the agent's reply has no credentials", "Check which program uses its socket")
    return body


def _checked(head: Head, body: bytes) -> bytes:
    """Return the body of an answer; raise an AgentError if that is an error."""
    if head.kind == "error":
        raise AgentError(body.decode("utf-8", "replace"), exit_status=head.status, reason=head.reason)
    return body


def command(address: Address, request: AgentRequest, ask: AskPin | None = None) -> str:
    """Send a command to an agent and return its answer; `ask` answers its questions for PINs.

    What a token waits for is shown as a notice. If `ask` has no answer, this is a PinRequiredError.
    """
    try:
        with connected(address, is_own=request.verb is Verb.UNLOCK and not address.is_system) as channel:
            if channel is None:
                start = _START_SYSTEM if address.is_system else "Start one: hwsigner agent"
                hint = "Nothing needs to be stopped" if request.verb is Verb.STOP else start
                raise AgentError(f"no agent is running at {address.socket}", hint)
            channel.send(request.line())
            head, body = channel.answer(protocol.SILENCE_LIMIT, notices.notify)
            while head.kind == "ask":
                channel.send(protocol.with_body("pin", _answer_question(body, ask)))
                head, body = channel.answer(protocol.SILENCE_LIMIT, notices.notify)
    except OSError as error:
        raise AgentError(f"the agent at {address.socket} failed: {error.strerror or error}") from error
    if head.kind == "unknown":
        raise AgentError(f"the agent has no profile {request.name!r}", "Make one with hwsigner profile add")
    return _checked(head, body).decode("utf-8", "replace")


class ReportedProfile:
    """What an agent, "user" or "system", says of a profile. The expiration and the failure may be empty."""

    def __init__(self, agent: str, state: str, expiration: str, failure: str) -> None:
        self.agent, self.state, self.expiration, self.failure = agent, state, expiration, failure


def ask_agents(environ: Mapping[str, str]) -> tuple[dict[str, ReportedProfile], list[str]]:
    """Return what the running agents say by profile, and a sentence for each agent that does not answer.

    The user's agent takes precedence over the system's.
    """
    served: dict[str, ReportedProfile] = {}
    problems: list[str] = []
    for name, address in (("system", system_address()), ("user", user_address(environ))):
        if not is_running(address):
            continue
        try:
            _, *rows = protocol.read_status(command(address, AgentRequest(Verb.STATUS, "")))
            served.update({profile: ReportedProfile(name, *words) for profile, *words in rows})
        except AgentError as error:
            if not (address.is_system and os.geteuid()):  # The system's agent refuses this command of most users.
                problems.append(f"the {name}'s agent can't be asked: {error.message}")
    return served, problems


def is_running(address: Address) -> bool:
    """Return whether a process listens there: an agent, or another process that an agent can't replace."""
    try:
        with connected(address) as channel:
            return channel is not None
    except (AgentError, OSError):
        return True


@contextmanager
def connected(address: Address, *, is_own: bool = False) -> Iterator[Channel | None]:
    """Connect to the agent at an address; None if there is none.

    If `is_own`, the agent must be a process of this very user, as a secret will be sent to it.
    """
    owner = address.owner()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            if owner is not None:
                _connect(sock, address.socket)
        except (FileNotFoundError, ConnectionRefusedError):
            owner = None
        if owner is None:
            yield None
            return
        uid = peer_uid(sock)
        if uid not in ({os.geteuid()} if is_own else {0, owner}) and not (uid == 0 and _listens_for_users()):
            raise AgentError(f"user {uid} listens at {address.socket}", "Remove that socket")
        yield Channel(sock)


def _listens_for_users() -> bool:
    """Return whether root's launchd listens for users' agents."""
    from hwsigner._system import launchd

    return launchd.is_here()


def _connect(sock: socket.socket, path: str) -> None:
    """Connect within CONNECT_LIMIT, also while the queue of waiting clients is full. Raises OSError.

    Not by SO_SNDTIMEO, whose argument has another form on 32-bit systems with a time of 64 bits, as Debian 13 on ARM.
    """
    sock.setblocking(False)
    deadline = time.monotonic() + CONNECT_LIMIT
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_QUEUE_PAUSE)
        else:
            return


def _answer_question(question: bytes, ask: AskPin | None) -> bytes:
    kind, subject, state, serial = [*question.decode("utf-8", "replace").split("\n"), *[""] * 4][:4]
    request = PinRequest(kind, subject, state, serial)
    pin = ask(request) if ask else None
    if pin is None or not (pin or request.may_be_empty):
        problem = f"{request.subject} needs its {request.kind}, and none was given"
        raise PinRequiredError(problem, "Run from a terminal, or where a pinentry can ask")
    return pin.encode()


def start_agent(environ: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """Start the user's agent, unless one runs or there is no runtime folder. If two start at once, one ends.

    It gets a session of its own, /dev/null for stdin, stdout and stderr, and no other descriptors, so that programs
    which wait for this command do not wait for the agent. PINs are removed from its environment. With
    HWSIGNER_AGENT=none, none is started. Returns None if none was started.
    """
    import subprocess

    from hwsigner._system.processes import python_command

    has_folder = os.path.isdir(runtime_folder(environ))
    if environ.get(VARIABLE) == "none" or not has_folder or is_running(user_address(environ)):
        return None
    return subprocess.Popen(
        [*python_command("hwsigner"), "agent"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: value for name, value in environ.items() if name not in (VARIABLE, PIN_VARIABLE)},
        start_new_session=True,
        umask=0o077,
    )
