"""The agent's loop: one thread, which waits for nothing but its sockets, answers from finished bytes.

What takes time is done by the threads of the profiles; their answers are posted to the loop.
"""

from __future__ import annotations

import os
import resource
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from hwsigner.agent import protocol
from hwsigner.agent.control import Control
from hwsigner.agent.crowd import Client, Crowd
from hwsigner.agent.listener import stamp
from hwsigner.agent.memory import LockedMemory
from hwsigner.agent.notify import Notifier
from hwsigner.agent.places import peer_uid
from hwsigner.agent.protocol import Request, Verb
from hwsigner.agent.roster import Roster
from hwsigner.agent.served import Log, Served
from hwsigner.resident import Reply

MAX_CLIENTS = 2048
MAX_CONTROLS = 8
# What a client has for its line, and how often the socket is looked for; in seconds.
LINE_LIMIT = 5.0
LOOK_EVERY = 60.0
_ACCEPTS_AT_ONCE = 64
# What the agent has open besides: keys, connections to the service.
_OWN_DESCRIPTORS = 64


class Server:
    """Answers the clients of one listening socket.

    Args:
        listener: the socket. It is closed when the server stops.
        roster: the profiles.
        memory: where PINs go that `unlock` brings.
        is_open: whether other users may ask; `allow-users` says for what.
        log: takes a line for each refusal.
    """

    def __init__(
        self, listener: socket.socket, roster: Roster, *, memory: LockedMemory, is_open: bool, log: Log
    ) -> None:
        self._listener = listener
        self._roster = roster
        self._memory = memory
        self._is_open = is_open
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._posted: deque[Callable[[], None]] = deque()
        self._crowd = Crowd()
        self._controls = threading.BoundedSemaphore(MAX_CONTROLS)
        self._is_stopping = False
        self._descriptors = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OWN_DESCRIPTORS)
        self._stamp = stamp(listener.getsockname())
        self._next_beat = self._next_bark = self._next_look = time.monotonic()
        self._notifier = Notifier({})

    def run(self, notifier: Notifier) -> None:
        """Serve until `stop`, and then until those who wait are answered."""
        self._notifier = notifier
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake, selectors.EVENT_READ, self._run_posted)
        notifier.ready(self._summary())
        try:
            while not self._is_stopping or self._crowd.is_waiting:
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._tend()
        finally:  # The threads of the profiles would keep the process alive.
            for closed in self._roster.close():
                closed.result()
            self._selector.close()
            os.close(self._wake)

    def post(self, act: Callable[[], None]) -> None:
        """Let the loop do something; for other threads and for handlers of signals."""
        self._posted.append(act)
        with suppress(OSError):  # The loop may have ended.
            os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Take no more requests; `run` returns once those who wait are answered. For the loop: see `post`."""
        if not self._is_stopping:
            self._is_stopping = True
            self._notifier.stopping()
            self._selector.unregister(self._listener)
            self._listener.close()
            for client in self._crowd.reading():
                self._drop(client)

    def reload(self) -> None:
        """Read the configuration anew. For the loop: see `post`."""
        self._notifier.reloading()
        self._roster.reload()
        self._notifier.ready(self._summary())

    def _summary(self) -> str:
        return f"serving {len(self._roster)} profiles"

    def _run_posted(self) -> None:
        os.eventfd_read(self._wake)
        while self._posted:
            self._posted.popleft()()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
                client = Client(sock, peer_uid(sock), time.monotonic() + LINE_LIMIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._log(f"can't accept a client: {error.strerror}")
                return
            self._make_room()
            self._crowd.enter(client)
            if self._is_open or client.uid == os.geteuid():
                self._read(client)
            else:
                self._log(f"user {client.uid} was refused")
                self._drop(client)

    def _make_room(self) -> None:
        """Give up a client where there are too many."""
        if len(self._crowd) >= min(MAX_CLIENTS, self._descriptors):
            client = self._crowd.least()
            self._log(f"too many clients: one of user {client.uid} was dropped")
            self._drop(client)

    def _read(self, client: Client) -> None:
        try:
            data = client.sock.recv(protocol.MAX_LINE - len(client.line), socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._watch(client)
            return
        except OSError:
            data = b""
        client.line += data
        line, end, rest = client.line.partition(b"\n")
        if end and not rest and (request := protocol.parse_request(line)):
            self._serve(client, request)
        elif end or not data or len(client.line) >= protocol.MAX_LINE:
            self._drop(client)
        else:
            self._watch(client)

    def _serve(self, client: Client, request: Request) -> None:
        served = self._roster.find(request.name) if request.name else None
        if request.name and served is None:
            self._finish(client, protocol.UNKNOWN)
        elif request.verb is not Verb.GET:
            self._control(client, request.verb, [served] if served else list(self._roster))
        elif served and served.allows(client.uid):
            reply = served.read()
            if reply is None:
                self._wait(client, served)
            else:
                self._finish(client, reply)
        else:
            self._refuse(client, f"profile {request.name!r}")

    def _refuse(self, client: Client, what: str) -> None:
        self._log(f"{what}: user {client.uid} was refused")
        text = f"{what} is not for user {client.uid}. See allow-users in docs/agent.md"
        self._finish(client, protocol.error(7, text))

    def _wait(self, client: Client, served: Served) -> None:
        """Keep a client until its answer is there. All that wait for one profile wait for the same answer."""
        if not self._crowd.is_waiting:
            self._next_beat = time.monotonic() + protocol.WORKING_EVERY
        is_first = self._crowd.wait(client, served)
        # It has nothing more to say, but may hang up.
        self._watch(client, partial(self._drop, client))
        self._beat(client)
        if is_first:
            served.answer().add_done_callback(lambda done: self.post(partial(self._answer, served, done)))

    def _answer(self, served: Served, done: Future[Reply]) -> None:
        reply = done.result()
        for client in self._crowd.answered(served):
            self._finish(client, reply)

    def _beat(self, client: Client) -> None:
        try:
            client.sock.send(protocol.WORKING, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            self._drop(client)

    def _finish(self, client: Client, reply: Reply) -> None:
        """Send an answer, for which the socket's buffer has room, or the client has a fault."""
        with suppress(OSError):
            client.sock.send(reply, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        self._drop(client)

    def _control(self, client: Client, verb: Verb, chosen: list[Served]) -> None:
        if client.uid not in (0, os.geteuid()):
            self._refuse(client, f"hwsigner agent {verb}")
        elif not self._controls.acquire(blocking=False):
            self._finish(client, protocol.error(7, "the agent is busy with as many such commands as it takes"))
        else:
            self._release(client)
            control = Control(client.sock, chosen, memory=self._memory, stop=lambda: self.post(self.stop))
            threading.Thread(target=self._run_control, args=(control, verb), daemon=True).start()

    def _run_control(self, control: Control, verb: Verb) -> None:
        try:
            control.serve(verb)
        finally:
            self._controls.release()

    def _watch(self, client: Client, act: Callable[[], None] | None = None) -> None:
        """Let the loop call something when a client sends or hangs up: to read on, if nothing else."""
        enter = self._selector.modify if client.is_watched else self._selector.register
        enter(client.sock, selectors.EVENT_READ, act or partial(self._read, client))
        client.is_watched = True

    def _drop(self, client: Client) -> None:
        self._release(client)
        client.sock.close()

    def _release(self, client: Client) -> None:
        self._crowd.leave(client)
        if client.is_watched:
            self._selector.unregister(client.sock)
            client.is_watched = False

    def _timeout(self) -> float:
        """Return the seconds until `_tend` has something to do."""
        times = [self._next_look, self._crowd.next_deadline()]
        if self._crowd.is_waiting:
            times.append(self._next_beat)
        if self._notifier.watchdog_interval:
            times.append(self._next_bark)
        return max(0.0, min(times) - time.monotonic())

    def _tend(self) -> None:
        now = time.monotonic()
        for client in self._crowd.late(now):
            self._drop(client)
        if now >= self._next_beat:
            self._next_beat = now + protocol.WORKING_EVERY
            for client in self._crowd.waiting():
                self._beat(client)
        if self._notifier.watchdog_interval and now >= self._next_bark:
            self._next_bark = now + self._notifier.watchdog_interval
            self._notifier.alive()
        if now >= self._next_look and not self._is_stopping:
            self._next_look = now + LOOK_EVERY
            self._look()

    def _look(self) -> None:
        """Stop where nobody can come any more: the runtime folder goes when its user has left."""
        if stamp(self._listener.getsockname()) != self._stamp:
            self._log("the socket is gone, and so the agent stops")
            self.stop()
