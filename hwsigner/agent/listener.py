"""The agent's socket: given by systemd, or made here. Of two agents that start, one gets it."""

from __future__ import annotations

import fcntl
import math
import os
import selectors
import socket
import stat
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress

from hwsigner.agent.address import Place, peer_uid
from hwsigner.errors import AgentError
from hwsigner.system.systemd import take_sockets

BACKLOG = 4096


@contextmanager
def open_listener(place: Place, environ: MutableMapping[str, str]) -> Iterator[socket.socket]:
    """Give the listening socket; one that was made here is removed at the end.

    Args:
        place: where to listen, if systemd gives no socket.
        environ: the environment; what it says of systemd's sockets is taken out.

    Raises:
        AgentError: an agent is there already, or the socket can't be made.
    """
    with ExitStack() as stack:
        found = _given(environ)
        if found is not None:
            stack.enter_context(found)
        else:
            try:
                stack.enter_context(_locked(place))
                found = stack.enter_context(_bound(place))
            except OSError as error:
                problem = f"can't listen in {place.folder}: {error.strerror or error}"
                raise AgentError(problem, "XDG_RUNTIME_DIR says where it is") from error
        yield found


def _given(environ: MutableMapping[str, str]) -> socket.socket | None:
    """Return the socket that systemd gives, if any."""
    sockets = take_sockets(environ)
    if not sockets:
        return None
    if len(sockets) > 1:
        for each in sockets:
            each.close()
        raise AgentError(f"systemd gives {len(sockets)} sockets", "Give the agent one ListenStream=")
    [given] = sockets
    listens = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    has_path = given.family == socket.AF_UNIX and str(given.getsockname()).startswith("/")
    if not has_path or given.type != socket.SOCK_STREAM or not listens:
        given.close()
        raise AgentError("systemd gives a socket that is no Unix stream", "Give ListenStream= the path of a socket")
    return given


@contextmanager
def _locked(place: Place) -> Iterator[None]:
    """Hold the folder's lock, which an agent keeps for as long as it lives."""
    _make_folder(place)
    with open(os.open(f"{place.folder}/agent.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _is_running(place) from None
        yield


def _make_folder(place: Place) -> None:
    parent = os.path.dirname(place.folder)
    status = os.stat(parent)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        hint = "Take that from them" if place.is_systems else "Let XDG_RUNTIME_DIR name a folder of mode 0700"
        raise AgentError(f"others can write {parent}", hint)
    with suppress(FileExistsError):
        os.mkdir(place.folder, 0o755 if place.is_systems else 0o700)
    if place.owner() != os.geteuid():
        raise AgentError(f"{place.folder} is not this user's alone", "Remove it")
    if not place.is_systems:
        os.chmod(place.folder, 0o700)


@contextmanager
def _bound(place: Place) -> Iterator[socket.socket]:
    """Make the socket, in the place of a dead agent's. The lock is held."""
    if _answers(place.socket):
        raise _is_running(place)  # Without our lock: systemd listens there.
    with suppress(FileNotFoundError):
        os.unlink(place.socket)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        before = os.umask(0o111 if place.is_systems else 0o177)
        try:
            made.bind(place.socket)
        finally:
            os.umask(before)
        made.listen(BACKLOG)
        mine = file_id(place.socket)
        try:
            yield made
        finally:
            if file_id(place.socket) == mine:
                os.unlink(place.socket)


def file_id(path: str) -> tuple[int, int] | None:
    """Return what tells a file from another one in its place, or None where there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # So many wait there that the queue is full.
        except OSError:
            return False
        return True


def _is_running(place: Place) -> AgentError:
    return AgentError(f"an agent is running already at {place.socket}", "hwsigner agent stop ends it")


# How long nobody is let in after the system refused it: who waits at the door would be tried again without a pause.
PAUSE = 0.1
_AT_ONCE = 64

# Takes the socket of a client, and the user at its other end.
Enter = Callable[[socket.socket, int], None]


class Door:
    """A listening socket in a loop. For the loop's thread.

    Args:
        listener: the socket; closed with the door.
        selector: the loop's, whose data are what it calls.
        enter: takes each client.
        refused: called with what is wrong where the system let nobody in; descriptors may have run out.

    Attributes:
        opens: when it is to be opened again, after a pause; infinity for never.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        *,
        enter: Enter,
        refused: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._enter = enter
        self._refused = refused
        self._file_id = file_id(listener.getsockname())
        self._is_closed = False
        self.opens = math.inf
        listener.setblocking(False)

    def open(self) -> None:
        """Let clients in."""
        self.opens = math.inf
        self._selector.register(self._listener, selectors.EVENT_READ, self.accept)

    def tend(self, now: float) -> None:
        """Open again, if a pause is over."""
        if now >= self.opens:
            self.open()

    def is_lost(self) -> bool:
        """Tell whether nobody can come any more: the socket's file is gone, or is another one."""
        return not self._is_closed and file_id(self._listener.getsockname()) != self._file_id

    def close(self) -> None:
        """Let nobody in any more."""
        self._is_closed = True
        self._shut()
        self._listener.close()

    def accept(self) -> None:
        """Take in who waits; the loop calls it."""
        if self._is_closed:
            return  # Since another event that came with this one.
        for _ in range(_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
                uid = peer_uid(sock)
            except BlockingIOError:
                return
            except OSError as error:
                self._refused(f"can't accept a client: {error.strerror}")
                self._shut()
                self.opens = time.monotonic() + PAUSE
                return
            self._enter(sock, uid)

    def _shut(self) -> None:
        self.opens = math.inf
        with suppress(KeyError):  # It is shut already.
            self._selector.unregister(self._listener)
