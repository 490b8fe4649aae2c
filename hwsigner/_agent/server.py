"""The agent's loop: one thread that waits for nothing but its sockets, and answers with finished bytes.

Workers do what takes time, and post their results to the loop.
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
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial

from hwsigner._agent import protocol
from hwsigner._agent.clients import Client, Clients
from hwsigner._agent.control import serve_command
from hwsigner._agent.listener import Acceptor
from hwsigner._agent.memory import LockedMemory
from hwsigner._agent.profile import AgentProfile, Answer, Log
from hwsigner._agent.profiles import Profiles
from hwsigner._agent.protocol import AgentRequest, Verb
from hwsigner._aws.credentials import Credentials, Reply
from hwsigner._refresh.outcome import Rendered
from hwsigner._system.sockets import NO_SIGNAL
from hwsigner._system.systemd import Notifier
from hwsigner._system.users import known_uid
from hwsigner.errors import AuditError

MAX_CLIENTS = 2048
MAX_COMMANDS = 8
# Seconds that a client has for its request, and between two checks that the socket is still there.
LINE_LIMIT = 5.0
LOOK_EVERY = 60.0
# Seconds that waiting clients have when the agent stops, and then the keys, which may hang. TimeoutStopSec= in the
# units allows for both.
DRAIN_LIMIT = 80.0
CLOSE_LIMIT = 1.0
# Descriptors that are left for keys and for connections to the service.
_OWN_DESCRIPTORS = 64


class AgentServer:
    """Answers the clients of one listening socket, which is closed when the server stops.

    `memory` holds the PINs that `unlock` brings. `is_open` is whether other users may ask; `allow-users` says for which
    profiles. `log` takes a line for each refusal, of which there may be a flood. `give` is called with a profile's
    name, the credentials that a user is about to get, and the user's socket; it raises an AuditError if the user must
    not. A byte in `wake`, the end of a pipe that does not block, ends the loop's wait.
    """

    def __init__(
        self,
        listener: socket.socket,
        profiles: Profiles,
        *,
        memory: LockedMemory,
        is_open: bool,
        log: Log,
        give: Callable[[str, Credentials, int, socket.socket], None] | None = None,
    ) -> None:
        self._profiles = profiles
        self._memory = memory
        self._is_open = is_open
        self._log = log
        self._give = give
        self._selector = selectors.DefaultSelector()
        self._acceptor = Acceptor(listener, self._selector, enter=self._enter, refused=self._refused)
        self._woken, self.wake = os.pipe()
        for end in (self._woken, self.wake):
            os.set_blocking(end, False)
            # Not at the end of `run`: a later `post` would write to whatever has its number by then.
            weakref.finalize(self, os.close, end).atexit = False
        self._posted: deque[Callable[[], None]] = deque()
        self._clients = Clients()
        self._commands: list[Verb] = []
        self._is_stopping = False
        self._drain_end = math.inf
        self._descriptors = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OWN_DESCRIPTORS)
        self._next_working = self._next_watchdog = self._next_look = time.monotonic()
        self._notifier = Notifier({})

    def run(self, notifier: Notifier, waiting: Iterable[tuple[socket.socket, int]] = ()) -> bool:
        """Serve until `stop`, and then until waiting clients are answered, DRAIN_LIMIT has passed, or `end`.

        `waiting` are clients that were accepted before, each with its uid. The result is whether all keys are closed:
        if one hangs, so does its thread, and the interpreter would wait for it.
        """
        self._notifier = notifier
        self._acceptor.open()
        self._selector.register(self._woken, selectors.EVENT_READ, self._run_posted)
        notifier.ready(self._summary())
        for sock, uid in waiting:
            self._enter(sock, uid)
        try:
            while not self._is_stopping or self._is_draining():
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._do_due()
        finally:
            for client in self._clients.waiting():
                self._drop(client)
            self._selector.close()
            is_closed = not wait(self._profiles.close(), CLOSE_LIMIT).not_done
        return is_closed

    def _is_draining(self) -> bool:
        # An `unlock` may wait for a person, and is not waited for.
        is_waiting = self._clients.is_waiting or any(verb is not Verb.UNLOCK for verb in self._commands)
        return is_waiting and time.monotonic() < self._drain_end

    def post(self, act: Callable[[], None]) -> None:
        """Let the loop call something. For other threads and signal handlers."""
        self._posted.append(act)
        with suppress(BlockingIOError):  # It is full, so the loop is going to look.
            os.write(self.wake, b"\0")

    def stop(self) -> None:
        """Accept no more requests; `run` returns once waiting clients are answered. For the loop: see `post`."""
        if not self._is_stopping:
            self._is_stopping = True
            self._drain_end = time.monotonic() + DRAIN_LIMIT
            self._notifier.stopping()
            self._acceptor.close()
            for client in self._clients.reading():
                self._drop(client)

    def end(self) -> None:
        """Stop without answering waiting clients. For the loop: see `post`."""
        self.stop()
        self._drain_end = -math.inf

    def look(self) -> None:
        """Stop if the socket is gone, as after a logout: no client can connect any more. For the loop: see `post`."""
        if self._acceptor.is_lost():
            self._log("the socket is gone, so the agent stops")
            self.stop()

    def reload(self) -> None:
        """Read the configuration again, unless the agent is stopping. For the loop: see `post`."""
        if not self._is_stopping:
            self._notifier.reloading()
            self._profiles.reload()
            self._notifier.ready(self._summary())

    def _summary(self) -> str:
        return f"serving {len(self._profiles)} profiles"

    def _run_posted(self) -> None:
        os.read(self._woken, 4096)
        while self._posted:
            self._posted.popleft()()

    def _enter(self, sock: socket.socket, uid: int) -> None:
        # The file of a user's own socket lets no other user in.
        client = Client(sock, known_uid(uid) if self._is_open else uid, time.monotonic() + LINE_LIMIT)
        if self._is_open or uid == os.geteuid():
            self._read(client)
        else:
            self._log(f"user {uid} was refused", uid=uid)
            self._drop(client)

    def _make_room_if_full(self) -> None:
        if self._clients.count >= min(MAX_CLIENTS, self._descriptors):
            self._make_room("too many clients")

    def _make_room(self, problem: str) -> None:
        client = self._clients.least()
        self._log(f"{problem}: a client of user {client.uid} was dropped")
        self._drop(client)

    def _refused(self, problem: str) -> None:
        self._log(problem)
        if self._clients.count:
            self._make_room(problem)

    def _read(self, client: Client) -> None:
        try:
            data = client.sock.recv(protocol.MAX_LINE - len(client.line), socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._keep(client)
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
            self._keep(client)

    def _keep(self, client: Client) -> None:
        """Keep a client whose request is incomplete. One whose answer is ready at once is gone before this."""
        if not client.is_watched:
            self._make_room_if_full()
            self._clients.enter(client)
            self._watch(client, partial(self._read, client))

    def _serve(self, client: Client, request: AgentRequest) -> None:
        profile = self._profiles.find(request.name) if request.name else None
        if request.name and profile is None:
            self._finish(client, protocol.UNKNOWN)
        elif request.verb is not Verb.GET:
            self._command(client, request.verb, [profile] if profile else self._profiles.all())
        elif profile and (profile.allows(client.uid) or profile.allows_member(client.sock)):
            rendered = profile.read()
            if rendered is None:
                client.with_notes = request.with_notes
                self._wait(client, profile)
            else:
                self._answer(client, profile, rendered)
        else:
            self._refuse(client, f"profile {request.name!r}")

    def _refuse(self, client: Client, what: str) -> None:
        self._log(f"{what}: user {client.uid} was refused", uid=client.uid)
        text = f"{what} is not for user {client.uid}. See allow-users in hwsigner help agent"
        self._finish(client, protocol.error(7, text))

    def _wait(self, client: Client, profile: AgentProfile) -> None:
        """Keep a client until its answer is ready. All that wait for one profile get the same answer."""
        if not self._clients.is_waiting:
            self._next_working = time.monotonic() + protocol.WORKING_EVERY
        if not client.is_watched:
            self._make_room_if_full()
        is_first = self._clients.wait(client, profile)
        # It has nothing more to send, but may hang up.
        self._watch(client, partial(self._drop, client))
        self._report_working(client)
        if is_first:
            profile.answer().add_done_callback(lambda done: self.post(partial(self._answer_waiting, profile, done)))

    def _answer_waiting(self, profile: AgentProfile, done: Future[Answer]) -> None:
        answer = done.result()
        for client in self._clients.answered(profile):
            self._answer(client, profile, answer)

    def _answer(self, client: Client, profile: AgentProfile, answer: Answer) -> None:
        """Give a client the credentials, unless their audit line is required and can't be written; or the error."""
        if not isinstance(answer, Rendered):
            self._finish(client, answer)
            return
        if self._give:
            try:
                self._give(profile.name, answer.credentials, client.uid, client.sock)
            except AuditError as error:
                self._finish(client, protocol.error(error.exit_status, f"profile {profile.name!r}: {error}"))
                return
        self._finish(client, answer.reply)

    def _report_working(self, client: Client) -> None:
        """Report that the agent is working, or what the profile's token waits for."""
        report, notice = protocol.WORKING, client.profile.notice if client.profile else None
        if client.with_notes and notice != client.noted:
            client.noted, report = notice, protocol.note(notice) if notice else report
        try:
            client.sock.send(report, socket.MSG_DONTWAIT | NO_SIGNAL)
        except OSError:
            self._drop(client)

    def _finish(self, client: Client, reply: Reply) -> None:
        """Send an answer and hang up. The socket's buffer has room for it, unless the client is at fault."""
        with suppress(OSError):
            client.sock.send(reply, socket.MSG_DONTWAIT | NO_SIGNAL)
        self._drop(client)

    def _command(self, client: Client, verb: Verb, chosen: list[AgentProfile]) -> None:
        if client.uid not in (0, os.geteuid()):
            self._refuse(client, f"hwsigner agent {verb}")
        elif len(self._commands) >= MAX_COMMANDS:
            self._finish(client, protocol.error(7, f"the agent is busy with {MAX_COMMANDS} such commands. Retry"))
        else:
            self._release(client)
            self._commands.append(verb)
            threading.Thread(target=self._serve_command, args=(client.sock, verb, chosen), daemon=True).start()

    def _serve_command(self, sock: socket.socket, verb: Verb, chosen: list[AgentProfile]) -> None:
        try:
            serve_command(sock, verb, chosen, self._memory)
        finally:
            self.post(partial(self._commands.remove, verb))
            if verb is Verb.STOP:
                self.post(self.stop)

    def _watch(self, client: Client, act: Callable[[], None]) -> None:
        """Let the loop call something when a client sends or hangs up."""
        enter = self._selector.modify if client.is_watched else self._selector.register
        enter(client.sock, selectors.EVENT_READ, act)
        client.is_watched = True

    def _drop(self, client: Client) -> None:
        self._release(client)
        client.sock.close()

    def _release(self, client: Client) -> None:
        if client.is_watched:
            self._clients.leave(client)
            self._selector.unregister(client.sock)
            client.is_watched = False

    def _timeout(self) -> float:
        """Return the seconds until `_do_due` has something to do."""
        times = [self._next_look, self._acceptor.opens, self._drain_end]
        if self._clients.count:
            times.append(self._clients.next_deadline())
            if self._clients.is_waiting:
                times.append(self._next_working)
        if self._notifier.watchdog_interval:
            times.append(self._next_watchdog)
        return max(0.0, min(times) - time.monotonic())

    def _do_due(self) -> None:
        now = time.monotonic()
        if self._clients.count:
            for client in self._clients.late(now):
                self._drop(client)
            if now >= self._next_working:
                self._next_working = now + protocol.WORKING_EVERY
                for client in self._clients.waiting():
                    self._report_working(client)
        if self._notifier.watchdog_interval and now >= self._next_watchdog:
            self._next_watchdog = now + self._notifier.watchdog_interval
            self._notifier.alive()
        if now >= self._acceptor.opens:
            self._acceptor.open()  # Its pause is over.
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            self.look()
