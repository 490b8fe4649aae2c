"""The agent's loop: one thread, which waits for nothing but its sockets, answers from finished bytes.

What takes time is done by the threads of the profiles; their answers are posted to the loop.
"""

from __future__ import annotations

import math
import os
import resource
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial

from hwsigner.agent import protocol
from hwsigner.agent.clients import Client, Crowd
from hwsigner.agent.control import Control
from hwsigner.agent.listener import Door
from hwsigner.agent.memory import LockedMemory
from hwsigner.agent.profile import HeldProfile, Log
from hwsigner.agent.profiles import Roster
from hwsigner.agent.protocol import Request, Verb
from hwsigner.refresh.background import Reply
from hwsigner.system.systemd import Notifier

MAX_CLIENTS = 2048
MAX_CONTROLS = 8
# What a client has for its line, and how often the socket is looked for; in seconds.
LINE_LIMIT = 5.0
LOOK_EVERY = 60.0
# What those who wait have when the agent stops, and then the keys, which may hang. The units have a TimeoutStopSec= for
# both.
DRAIN_LIMIT = 80.0
CLOSE_LIMIT = 1.0
# What the agent has open besides: keys, connections to the service.
_OWN_DESCRIPTORS = 64


class Server:
    """Answers the clients of one listening socket.

    Args:
        listener: the socket. It is closed when the server stops.
        roster: the profiles.
        memory: where PINs go that `unlock` brings.
        is_open: whether other users may ask; `allow-users` says for what.
        log: takes a line for each refusal; there may be a flood of them.
    """

    def __init__(
        self, listener: socket.socket, roster: Roster, *, memory: LockedMemory, is_open: bool, log: Log
    ) -> None:
        self._roster = roster
        self._memory = memory
        self._is_open = is_open
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._door = Door(listener, self._selector, enter=self._enter, refused=self._refused)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Not at the end of `run`: who posts later would write to what has its number then.
        weakref.finalize(self, os.close, self._wake).atexit = False
        self._posted: deque[Callable[[], None]] = deque()
        self._crowd = Crowd()
        self._controls: list[Verb] = []
        self._is_stopping = False
        self._drain_end = math.inf
        self._descriptors = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OWN_DESCRIPTORS)
        self._next_beat = self._next_bark = self._next_look = time.monotonic()
        self._notifier = Notifier({})

    def run(self, notifier: Notifier) -> bool:
        """Serve until `stop`, and then until those who wait are answered or have waited for DRAIN_LIMIT, or `end`.

        Returns:
            Whether all keys are closed. Where one hangs, so does its thread, and the process would not end for it.
        """
        self._notifier = notifier
        self._door.open()
        self._selector.register(self._wake, selectors.EVENT_READ, self._run_posted)
        notifier.ready(self._summary())
        try:
            while self._goes_on():
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._tend()
        finally:
            is_closed = self._close()
        return is_closed

    def _goes_on(self) -> bool:
        if not self._is_stopping:
            return True
        # An `unlock` may wait for a person.
        is_waiting = self._crowd.is_waiting or any(verb is not Verb.UNLOCK for verb in self._controls)
        return is_waiting and time.monotonic() < self._drain_end

    def _close(self) -> bool:
        for client in self._crowd.waiting():
            self._drop(client)
        self._selector.close()
        return not wait(self._roster.close(), CLOSE_LIMIT).not_done

    def post(self, act: Callable[[], None]) -> None:
        """Let the loop do something; for other threads and for handlers of signals."""
        self._posted.append(act)
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Take no more requests; `run` returns once those who wait are answered. For the loop: see `post`."""
        if not self._is_stopping:
            self._is_stopping = True
            self._drain_end = time.monotonic() + DRAIN_LIMIT
            self._notifier.stopping()
            self._door.close()
            for client in self._crowd.reading():
                self._drop(client)

    def end(self) -> None:
        """Stop, and answer nobody any more. For the loop: see `post`."""
        self.stop()
        self._drain_end = -math.inf

    def reload(self) -> None:
        """Read the configuration anew, unless the agent stops. For the loop: see `post`."""
        if not self._is_stopping:
            self._notifier.reloading()
            self._roster.reload()
            self._notifier.ready(self._summary())

    def _summary(self) -> str:
        return f"serving {len(self._roster)} profiles"

    def _run_posted(self) -> None:
        os.eventfd_read(self._wake)
        while self._posted:
            self._posted.popleft()()

    def _enter(self, sock: socket.socket, uid: int) -> None:
        client = Client(sock, uid, time.monotonic() + LINE_LIMIT)
        if len(self._crowd) >= min(MAX_CLIENTS, self._descriptors):
            self._make_room("too many clients")
        self._crowd.enter(client)
        if self._is_open or uid == os.geteuid():
            self._read(client)
        else:
            self._log(f"user {uid} was refused")
            self._drop(client)

    def _make_room(self, problem: str) -> None:
        client = self._crowd.least()
        self._log(f"{problem}: one of user {client.uid} was dropped")
        self._drop(client)

    def _refused(self, problem: str) -> None:
        self._log(problem)
        if len(self._crowd):
            self._make_room(problem)

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
        held = self._roster.find(request.name) if request.name else None
        if request.name and held is None:
            self._finish(client, protocol.UNKNOWN)
        elif request.verb is not Verb.GET:
            self._control(client, request.verb, [held] if held else self._roster.all())
        elif held and held.allows(client.uid):
            reply = held.read()
            if reply is None:
                self._wait(client, held)
            else:
                self._finish(client, reply)
        else:
            self._refuse(client, f"profile {request.name!r}")

    def _refuse(self, client: Client, what: str) -> None:
        self._log(f"{what}: user {client.uid} was refused")
        text = f"{what} is not for user {client.uid}. See allow-users in docs/agent.md"
        self._finish(client, protocol.error(7, text))

    def _wait(self, client: Client, held: HeldProfile) -> None:
        """Keep a client until its answer is there. All that wait for one profile wait for the same answer."""
        if not self._crowd.is_waiting:
            self._next_beat = time.monotonic() + protocol.WORKING_EVERY
        is_first = self._crowd.wait(client, held)
        # It has nothing more to say, but may hang up.
        self._watch(client, partial(self._drop, client))
        self._beat(client)
        if is_first:
            held.answer().add_done_callback(lambda done: self.post(partial(self._answer, held, done)))

    def _answer(self, held: HeldProfile, done: Future[Reply]) -> None:
        reply = done.result()
        for client in self._crowd.answered(held):
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

    def _control(self, client: Client, verb: Verb, chosen: list[HeldProfile]) -> None:
        if client.uid not in (0, os.geteuid()):
            self._refuse(client, f"hwsigner agent {verb}")
        elif len(self._controls) >= MAX_CONTROLS:
            self._finish(client, protocol.error(7, "the agent is busy with as many such commands as it takes"))
        else:
            self._release(client)
            self._controls.append(verb)
            control = Control(client.sock, chosen, memory=self._memory, stop=lambda: self.post(self.stop))
            threading.Thread(target=self._run_control, args=(control, verb), daemon=True).start()

    def _run_control(self, control: Control, verb: Verb) -> None:
        try:
            control.serve(verb)
        finally:
            self.post(partial(self._controls.remove, verb))

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
        times = [self._next_look, self._door.opens, self._drain_end, self._crowd.next_deadline()]
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
        self._door.tend(now)
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            self._look()

    def _look(self) -> None:
        """Stop where nobody can come any more: the runtime folder goes when its user has left."""
        if self._door.is_lost():
            self._log("the socket is gone, and so the agent stops")
            self.stop()
