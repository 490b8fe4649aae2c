"""The agent's socket: systemd's or its own, of which one agent at a time can have it; and accepting its clients."""

from __future__ import annotations

import fcntl
import math
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress

from hwsigner._agent.client import Address, is_closed_folder
from hwsigner._agent.protocol import MAX_LINE, WORKING, error
from hwsigner._system.files import file_id
from hwsigner._system.sockets import NO_SIGNAL, bind_in, report_removals, take_sockets
from hwsigner._system.users import peer_uid
from hwsigner.errors import AgentError, HwsignerError

BACKLOG = 4096
# No client is accepted for this long after the system refused one. Otherwise the loop would retry without a pause.
PAUSE = 0.1
_AT_ONCE = 64
_LOCK, _SOCKET = "agent.lock", "agent.sock"
_SAFE_FOLDER = "a folder that you own and only you can write"
_SYSTEM_HINT = (
    "Start it as its user: systemctl start hwsigner-agent. In a container, mount a folder that this user owns"
)


@contextmanager
def open_listener(address: Address, environ: MutableMapping[str, str]) -> Iterator[socket.socket]:
    """Open the listening socket. One that is made here is removed at the end.

    If systemd passes a socket, that one is used, and systemd's variables are removed.
    """
    with ExitStack() as stack:
        listener = _passed_socket(environ)
        if listener is not None:
            stack.enter_context(listener)
        else:
            try:
                folder = stack.enter_context(_locked_folder(address))
                listener = stack.enter_context(_bound(address, folder))
            except OSError as error:
                problem = f"can't listen in {address.folder}: {error.strerror or error}"
                hint = "Set XDG_RUNTIME_DIR to a folder that exists and that you own"
                raise AgentError(problem, _SYSTEM_HINT if address.is_system else hint) from error
        yield listener


@contextmanager
def removal_reported(listener: socket.socket) -> Iterator[None]:
    """Have the kernel send SIGIO, which must have a handler, when a file is removed from the folder of the socket.

    So an agent whose runtime folder was removed ends before the next one starts. macOS, and some file systems of
    Linux, report nothing.
    """
    folder = os.open(os.path.dirname(os.path.realpath(listener.getsockname())), os.O_RDONLY | os.O_CLOEXEC)
    try:
        report_removals(folder)  # Otherwise the loop looks once a minute.
        yield
    finally:
        os.close(folder)


def greet(listener: socket.socket) -> list[tuple[socket.socket, int]]:
    """Accept the clients that wait already, and report to them that the agent is working. Returns each with its uid.

    They have waited since systemd began to start the agent, which now loads its libraries.
    """
    clients: list[tuple[socket.socket, int]] = []
    listener.setblocking(False)
    with suppress(OSError):  # No more clients wait, or the system refuses one. The loop goes on from there.
        while len(clients) < _AT_ONCE:
            sock, _ = listener.accept()
            try:
                uid = peer_uid(sock)
                sock.send(WORKING, socket.MSG_DONTWAIT | NO_SIGNAL)
            except OSError:  # It has hung up, as clients do after a second. Others wait behind it.
                sock.close()
                continue
            clients.append((sock, uid))
    return clients


def refuse(listener: socket.socket, waiting: list[tuple[socket.socket, int]], problem: HwsignerError) -> None:
    """Answer the clients that wait, accepted or not, with why the agent can't start.

    Otherwise each would go on to wait for an agent that systemd starts again in vain.
    """
    for sock, _ in [*waiting, *greet(listener)]:
        with sock, suppress(OSError):
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.recv(MAX_LINE)
            sock.send(error(problem.exit_status, f"the agent can't start: {problem}"), NO_SIGNAL)


def _passed_socket(environ: MutableMapping[str, str]) -> socket.socket | None:
    """Return the socket that systemd passes, if any."""
    sockets = take_sockets(environ)
    if not sockets:
        return None
    if len(sockets) > 1:
        for each in sockets:
            each.close()
        raise AgentError(f"systemd passes {len(sockets)} sockets", "Give the agent one ListenStream=")
    [passed] = sockets
    listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    has_path = passed.family == socket.AF_UNIX and str(passed.getsockname()).startswith("/")
    if not has_path or passed.type != socket.SOCK_STREAM or not listens:
        passed.close()
        raise AgentError("systemd passes a socket that is not a Unix stream", "Give ListenStream= the path of a socket")
    return passed


@contextmanager
def _locked_folder(address: Address) -> Iterator[int]:
    """Make the folder and hold its lock, which an agent keeps as long as it runs; return the folder's descriptor.

    Once the folder above it is open, no path is followed: another user could replace a part of it meanwhile.
    """
    above, name = os.path.split(address.folder)
    with ExitStack() as stack:
        with ExitStack() as passing:
            parent = _open_folder(passing, above, {0, os.geteuid()}, f"Let XDG_RUNTIME_DIR name {_SAFE_FOLDER}")
            with suppress(FileExistsError):
                os.mkdir(name, 0o755 if address.is_system else 0o700, dir_fd=parent)
            hint = _SYSTEM_HINT if address.is_system else "Remove it"
            folder = _open_folder(stack, address.folder, {os.geteuid()}, hint, parent)
        if not address.is_system:
            os.fchmod(folder, 0o700)
        lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _is_running(address) from None
        yield folder


def _open_folder(stack: ExitStack, path: str, owners: set[int], hint: str, parent: int | None = None) -> int:
    """Open a folder that one of these users owns, and only its owner can write to; in its parent, if that is open."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        if parent is None:
            folder = os.open(path, flags)
        else:
            folder = os.open(os.path.basename(path), flags | os.O_NOFOLLOW, dir_fd=parent)
        stack.callback(os.close, folder)
        status = os.fstat(folder)
        is_safe = is_closed_folder(status) and status.st_uid in owners
    except NotADirectoryError:  # Or a symbolic link.
        is_safe = False
    if not is_safe:
        raise AgentError(f"{path} must be {_SAFE_FOLDER}", hint)
    return folder


@contextmanager
def _bound(address: Address, folder: int) -> Iterator[socket.socket]:
    """Make the socket in the open folder, in place of a dead agent's. The lock is held."""
    if _answers(address.socket):
        raise _is_running(address)  # Without the lock: systemd listens there.
    with suppress(FileNotFoundError):
        os.unlink(_SOCKET, dir_fd=folder)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        before = os.umask(0o111 if address.is_system else 0o177)
        try:
            bind_in(made, folder, address.socket)
        finally:
            os.umask(before)
        made.listen(BACKLOG)
        mine = _id_in(folder)
        try:
            yield made
        finally:
            if _id_in(folder) == mine:
                os.unlink(_SOCKET, dir_fd=folder)


def _id_in(folder: int) -> tuple[int, int] | None:
    """Return the device and inode of the socket in the open folder; None if it is gone."""
    try:
        status = os.stat(_SOCKET, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _answers(path: str) -> bool:
    """Return whether a process listens there. Raises OSError if no client could connect to such a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # The queue of waiting clients is full.
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def _is_running(address: Address) -> AgentError:
    return AgentError(f"an agent is running already at {address.socket}", "Use it, or stop it with hwsigner agent stop")


class Acceptor:
    """Accepts the clients of a listening socket, which is closed with this. Used by the loop's thread only.

    `selector` is the loop's, whose data are what it calls. `enter` takes each client's socket and uid; `refused` takes
    what is wrong if the system refuses a client, as descriptors may have run out.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        *,
        enter: Callable[[socket.socket, int], None],
        refused: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._enter = enter
        self._refused = refused
        self._path = os.path.realpath(listener.getsockname())
        self._file_id = file_id(self._path)
        self._is_closed = False
        self.opens = math.inf  # When a pause is over.
        listener.setblocking(False)

    def open(self) -> None:
        """Accept clients from now on."""
        self.opens = math.inf
        self._selector.register(self._listener, selectors.EVENT_READ, self.accept)

    def is_lost(self) -> bool:
        """Return whether no client can connect any more: the socket's file is gone or was replaced."""
        return not self._is_closed and file_id(self._path) != self._file_id

    def close(self) -> None:
        """Accept no more clients."""
        self._is_closed = True
        self._pause(math.inf)
        self._listener.close()

    def accept(self) -> None:
        """Accept waiting clients. Called by the loop."""
        if self._is_closed:
            return  # By an event that came together with this one.
        for _ in range(_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
                uid = peer_uid(sock)
            except BlockingIOError:
                return
            except OSError as error:
                self._refused(f"can't accept a client: {error.strerror}")
                self._pause(time.monotonic() + PAUSE)
                return
            self._enter(sock, uid)

    def _pause(self, until: float) -> None:
        self.opens = until
        with suppress(KeyError):  # It pauses already.
            self._selector.unregister(self._listener)
