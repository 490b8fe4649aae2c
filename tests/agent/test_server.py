"""The agent in this process, asked in bytes: which client gets what, how many wait for one session, the limits."""

from __future__ import annotations

import errno
import gc
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import certs
from agent.homes import PASSPHRASE, Home, Running, read_all, read_end, read_exactly, run_agent
from hwsigner._agent import listener, protocol, server
from hwsigner._config import profiles as config
from hwsigner._refresh.refresher import Refresher
from hwsigner.emulator import Fault

Patch = pytest.MonkeyPatch


def credentials(answer: bytes) -> dict[str, object]:
    """Return the JSON of an answer."""
    head, _, body = answer.partition(b"\n")
    assert head == b"1 ok %d" % len(body), answer
    assert body.endswith(b"}\n")
    found: dict[str, object] = json.loads(body)
    return found


class TestGet:
    def test_answer_is_what_credential_process_prints(self, running: Running) -> None:
        found = credentials(running.get())
        assert list(found) == ["Version", "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"]
        assert found["Version"] == 1
        assert datetime.fromisoformat(str(found["Expiration"])) > datetime.now(UTC)

    def test_session_serves_all_clients(self, running: Running) -> None:
        first = running.ask(b"1 get web\n")
        assert first.startswith(protocol.WORKING)
        assert running.ask(b"1 get web\n") == first.replace(protocol.WORKING, b"")
        assert len(running.home.emulator.requests) == 1

    def test_each_profile_has_its_own_session(self, home: Home) -> None:
        home.write_profiles(web={}, other={})
        with run_agent(home) as running:
            keys = [credentials(running.get(name))["AccessKeyId"] for name in ("web", "other", "web", "other")]
        assert keys[:2] == keys[2:]
        assert keys[0] != keys[1]

    @pytest.mark.parametrize("flag", ["certificate", "private-key", "intermediates"])
    def test_profile_whose_key_is_in_a_variable_is_left_to_the_programs_that_have_it(
        self, home: Home, flag: str
    ) -> None:
        home.write_profiles(web={flag: "env:WEB_KEY"}, other={})
        with run_agent(home) as running:
            assert running.get("web") == running.get("nope").replace(b"nope", b"web")
            assert credentials(running.get("other"))

    @pytest.mark.parametrize("name", ["other", "WEB", "x" * 64])
    def test_unknown_profile_is_reported(self, running: Running, name: str) -> None:
        assert running.ask(f"1 get {name}\n".encode()) == b"1 unknown\n"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("fault", "status", "text"),
        [("deny", 5, b"Access denied"), ("reset", 6, b"reset")],
    )
    def test_error_has_its_status_and_is_logged_once(
        self, running: Running, fault: str, status: int, text: bytes
    ) -> None:
        running.home.emulator.misbehave(Fault.parse(f"{fault}*9"))
        answer = running.get()
        assert answer.startswith(b"1 error %d " % status)
        assert text in answer
        running.settle()
        assert [line.partition(": no session: ")[0] for line in running.log] == ["error: profile 'web'"]
        assert running.get() == answer  # At once, without another attempt.
        assert len(running.log) == 1

    def test_session_is_logged_without_a_secret(self, running: Running) -> None:
        found = credentials(running.get())
        assert running.log == [f"profile 'web': session created, credentials until {found['Expiration']}"]

    @pytest.mark.parametrize(("end", "kind"), [(-0.5, "error"), (-3, "warning"), (-20, None)])
    def test_certificate_near_its_end_is_logged(self, home: Home, end: float, kind: str | None) -> None:
        home.write_profiles(web={})
        home.write_leaf("web", certs.Shape(begin=certs.ago(15), end=certs.ago(end)))
        with run_agent(home) as running:
            credentials(running.get())
            notices = running.log[1:]
        assert [line.partition(": the certificate ")[0] for line in notices] == ([kind] if kind else [])
        assert all(line.endswith("(profile 'web')") for line in notices)

    def test_session_that_is_shorter_than_asked_is_logged(self, home: Home) -> None:
        home.write_profiles(web={"session-duration": 43200})
        with run_agent(home) as running:
            credentials(running.get())
            warnings = [line for line in running.log if "lasts 60 minutes, not 720 minutes" in line]
        assert len(warnings) == 1
        assert warnings[0].startswith("warning: the session of ")

    @pytest.mark.parametrize("key", ["certificate", "private-key"])
    def test_profile_with_a_missing_file_is_an_error(self, home: Home, key: str) -> None:
        home.write_profiles(web={key: "/nonexistent/x"})
        with run_agent(home) as running:
            answer = running.get()
        assert answer.startswith(b"1 error ")
        assert b"/nonexistent/x" in answer

    @pytest.mark.filterwarnings("ignore::hwsigner.errors.UnsafeConnectionWarning")  # It would be the error.
    def test_no_verify_ssl_is_refused_off_loopback(self, home: Home) -> None:
        home.write_profiles(web={"endpoint": "https://192.0.2.1", "no-verify-ssl": "true"})
        with run_agent(home) as running:
            answer = running.get()
        assert answer.startswith(b"1 error 2 ")
        assert b"refuses no-verify-ssl" in answer

    def test_request_in_pieces_is_answered(self, running: Running) -> None:
        with running.connect() as connection:
            for byte in b"1 get web\n":
                connection.sendall(bytes([byte]))
                running.settle()
            assert b"\n1 ok " in read_all(connection)

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"\n",
            b"2 get web\n",
            b"1 get\n",
            b"1 get \n",
            b"1 get web \n",
            b"1 get web\r\n",
            b"1 get ../web\n",
            b"1 get -web\n",
            b"1 get w\xe9b\n",
            b"1 get " + b"x" * 65 + b"\n",
            b"1 get web --debug\n",
            b"1 give web\n",
            b"1 status web\n",
            b"1 unlock\n",
            b"1 get web\nx",
            b"x" * protocol.MAX_LINE,
            b"x" * 100_000,
        ],
    )
    def test_invalid_request_gets_no_answer(self, running: Running, line: bytes) -> None:
        with running.connect() as connection:
            with_answer = b""
            try:
                connection.sendall(line)
                connection.shutdown(socket.SHUT_WR)
                with_answer = read_all(connection)
            except (ConnectionResetError, BrokenPipeError):
                pass
            assert with_answer == b""
        assert running.home.emulator.requests == []

    @settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(max_size=200))
    def test_no_bytes_stop_the_agent(self, running: Running, line: bytes) -> None:
        with running.connect() as connection:
            try:
                connection.sendall(line)
                connection.shutdown(socket.SHUT_WR)
                read_all(connection)
            except (ConnectionResetError, BrokenPipeError):
                pass
        running.settle()


class TestWaiting:
    def test_thousand_clients_wait_for_one_session(self, home: Home) -> None:
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri})
        with run_agent(home) as running:
            clients = [running.connect() for _ in range(1000)]
            try:
                for client in clients:
                    client.sendall(b"1 get web\n")
                for client in clients:
                    assert read_exactly(client, len(protocol.WORKING)) == protocol.WORKING
                gate.write_text(PASSPHRASE)
                answers = {read_all(client).replace(protocol.WORKING, b"") for client in clients}
            finally:
                for client in clients:
                    client.close()
        assert len(answers) == 1
        assert credentials(answers.pop())
        assert len(home.emulator.requests) == 1

    @pytest.mark.slow
    def test_thousand_clients_at_once_are_answered(self, running: Running) -> None:
        running.get()
        with ThreadPoolExecutor(50) as pool:
            answers = set(pool.map(lambda _: running.get(), range(1000)))
        assert len(answers) == 1
        assert credentials(answers.pop())

    def test_waiting_client_is_told_repeatedly_that_the_agent_works(self, home: Home, monkeypatch: Patch) -> None:
        monkeypatch.setattr(protocol, "WORKING_EVERY", 0.02)
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri})
        with run_agent(home) as running, running.connect() as client:
            client.sendall(b"1 get web\n")
            wanted = protocol.WORKING * 4
            assert read_exactly(client, len(wanted)) == wanted
            gate.write_text(PASSPHRASE)
            assert credentials(read_all(client).replace(protocol.WORKING, b""))

    def test_waiting_command_is_told_repeatedly_that_the_agent_works(self, home: Home, monkeypatch: Patch) -> None:
        monkeypatch.setattr(protocol, "WORKING_EVERY", 0.02)
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri})
        with run_agent(home) as running, running.connect() as client:
            client.sendall(b"1 refresh web\n")
            assert read_exactly(client, len(protocol.WORKING) * 3) == protocol.WORKING * 3
            gate.write_text(PASSPHRASE)
            assert read_all(client).replace(protocol.WORKING, b"").startswith(b"1 ok ")

    def test_other_profiles_are_served_while_a_key_hangs(self, home: Home) -> None:
        uri, gate = home.gated_key("slow")
        home.write_profiles(web={}, slow={"private-key": uri})
        with run_agent(home) as running, running.connect() as client:
            client.sendall(b"1 get slow\n")
            assert read_exactly(client, len(protocol.WORKING)) == protocol.WORKING
            assert credentials(running.get("web"))
            assert b"slow\tidle" in running.ask(b"1 status\n")
            gate.write_text(PASSPHRASE)
            assert credentials(read_all(client).replace(protocol.WORKING, b""))

    def test_client_that_hangs_up_does_not_affect_the_others(self, home: Home) -> None:
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri})
        with run_agent(home) as running, running.connect() as stays:
            with running.connect() as leaves:
                for client in (leaves, stays):
                    client.sendall(b"1 get web\n")
                    assert read_exactly(client, len(protocol.WORKING)) == protocol.WORKING
            running.settle()
            gate.write_text(PASSPHRASE)
            assert credentials(read_all(stays).replace(protocol.WORKING, b""))

    def test_stopping_agent_answers_waiting_clients(self, home: Home) -> None:
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri})
        with run_agent(home) as running, running.connect() as client, running.connect() as silent:
            client.sendall(b"1 get web\n")
            assert read_exactly(client, len(protocol.WORKING)) == protocol.WORKING
            # Once the command that reads the PIN runs: a process that is just being started shares the listener.
            with gate.open("w") as pin:
                running.server.post(running.server.stop)
                assert silent.recv(1) == b""
                with pytest.raises(ConnectionRefusedError):
                    running.connect()
                pin.write(PASSPHRASE)
            assert credentials(read_all(client).replace(protocol.WORKING, b""))
        assert not os.path.exists(home.address.socket)

    @pytest.mark.parametrize("is_replaced", [False, True])
    def test_agent_stops_when_its_socket_is_gone(self, home: Home, monkeypatch: Patch, is_replaced: bool) -> None:
        monkeypatch.setattr(server, "LOOK_EVERY", 0.02)
        with run_agent(home) as running, socket.socket(socket.AF_UNIX) as other:
            running.get()
            os.unlink(home.address.socket)
            if is_replaced:
                other.bind(home.address.socket)
            running.thread.join(20)
            assert not running.thread.is_alive()
            assert running.log[1:] == ["the socket is gone, so the agent stops"]
        assert os.path.exists(home.address.socket) == is_replaced


class TestEnd:
    """The end of an agent whose key hangs. The test lets the key go in the end, so that no thread is left."""

    @pytest.fixture(autouse=True)
    def haste(self, monkeypatch: Patch) -> None:
        monkeypatch.setattr(server, "CLOSE_LIMIT", 0.05)

    @pytest.fixture
    def hung(self, home: Home) -> Iterator[Running]:
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri}, other={})
        before = set(threading.enumerate())
        with run_agent(home) as running:
            try:
                yield running
            finally:
                running.server.post(running.server.end)
                gate.write_text("wrong")
        for thread in set(threading.enumerate()) - before:
            thread.join(20)
            assert not thread.is_alive()

    def stop(self, running: Running, *, again: bool = False) -> None:
        """Stop it, and wait until it has ended."""
        running.server.post(running.server.stop)
        if again:
            running.server.post(running.server.end)
        running.thread.join(20)
        assert not running.thread.is_alive()

    @pytest.mark.slow
    def test_waiting_clients_are_dropped_at_the_limit(self, hung: Running, monkeypatch: Patch) -> None:
        monkeypatch.setattr(server, "DRAIN_LIMIT", 0.2)
        with hung.waiting(b"1 get web\n") as client, hung.waiting(b"1 refresh web\n"):
            begin = time.monotonic()
            self.stop(hung)
            assert time.monotonic() - begin >= 0.2
            assert read_end(client) == b""
        assert hung.ended == [False]

    def test_second_stop_drops_waiting_clients_at_once(self, hung: Running) -> None:
        with hung.waiting(b"1 get web\n") as client:
            self.stop(hung, again=True)
            assert read_end(client) == b""
        assert hung.ended == [False]

    def test_end_drops_waiting_clients_at_once(self, hung: Running) -> None:
        with hung.waiting(b"1 get web\n") as client:
            hung.server.post(hung.server.end)
            hung.thread.join(20)
            assert not hung.thread.is_alive()
            assert read_end(client) == b""

    def test_agent_without_waiting_clients_stops_at_once(self, running: Running) -> None:
        running.get()
        self.stop(running)
        assert running.ended == [True]

    def test_client_that_has_hung_up_is_not_waited_for(self, hung: Running) -> None:
        with hung.waiting(b"1 get web\n"):
            pass
        self.stop(hung)
        assert hung.ended == [False]

    def test_removed_profile_that_hangs_is_left_behind(self, hung: Running) -> None:
        with hung.waiting(b"1 get web\n"):
            hung.home.write_profiles(other={})
            hung.get("other")
            self.stop(hung, again=True)
        assert hung.ended == [False]

    def test_person_who_types_a_pin_is_not_waited_for(self, home: Home) -> None:
        home.encrypted_key("web")
        with run_agent(home) as running, running.conversation(b"1 unlock web\n") as channel:
            assert channel.answer(20)[0].kind == "ask"
            self.stop(running)
        assert running.ended == [True]

    @pytest.mark.slow
    def test_command_is_answered_while_stopping(self, home: Home) -> None:
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri})
        with run_agent(home) as running, running.waiting(b"1 refresh web\n") as client:
            running.server.post(running.server.stop)
            time.sleep(server.CLOSE_LIMIT * 3)
            gate.write_text(PASSPHRASE)
            assert read_end(client).startswith(b"1 ok ")
        assert running.ended == [True]

    @pytest.mark.slow
    def test_stopping_agent_sleeps_between_events(self, hung: Running, monkeypatch: Patch) -> None:
        monkeypatch.setattr(server, "LOOK_EVERY", 0.05)
        hung.server._next_look = 0.0
        rounds: list[float] = []
        with hung.waiting(b"1 get web\n"):
            hung.server.post(hung.server.stop)
            timeout = hung.server._timeout

            def count() -> float:
                rounds.append(timeout())
                return rounds[-1]

            monkeypatch.setattr(hung.server, "_timeout", count)
            time.sleep(0.3)
        assert 1 <= len(rounds) < 50

    def test_client_that_comes_with_the_stop_is_no_error(self, running: Running) -> None:
        running.server.post(running.server.stop)
        running.server.post(running.server._acceptor.accept)
        running.thread.join(20)
        assert running.log == []


class Refusing:
    """A listener whose next calls of `accept` fail."""

    def __init__(self, real: socket.socket, failures: int) -> None:
        self._real = real
        self._failures = failures
        self.calls = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.calls += 1
        if self.calls <= self._failures:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._real.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


class TestBounds:
    def test_silent_client_is_dropped(self, running: Running, monkeypatch: Patch) -> None:
        monkeypatch.setattr(server, "LINE_LIMIT", 0.05)
        with running.connect() as silent, running.connect() as half:
            half.sendall(b"1 get w")
            assert silent.recv(1) == b""
            assert half.recv(1) == b""

    def test_half_open_clients_do_not_delay_others(self, running: Running, monkeypatch: Patch) -> None:
        monkeypatch.setattr(server, "MAX_CLIENTS", 20)
        running.get()
        silent = [running.connect() for _ in range(60)]
        try:
            assert credentials(running.get())
            running.settle()
            # The oldest were dropped, and no more than the limit are left.
            assert silent[0].recv(1) == b""
            silent[-1].settimeout(0.0)
            with pytest.raises(BlockingIOError):
                silent[-1].recv(1)
            assert credentials(running.get())
        finally:
            for client in silent:
                client.close()

    def test_last_of_too_many_waiting_clients_is_dropped(self, home: Home, monkeypatch: Patch) -> None:
        monkeypatch.setattr(server, "MAX_CLIENTS", 5)
        uri, gate = home.gated_key("slow")
        home.write_profiles(web={}, slow={"private-key": uri})
        with run_agent(home) as running, ExitStack() as stack:
            running.get()
            waiting = []
            for _ in range(8):
                waiting.append(stack.enter_context(running.connect()))
                waiting[-1].sendall(b"1 get slow\n")
                assert read_exactly(waiting[-1], len(protocol.WORKING)) == protocol.WORKING
            assert credentials(running.get())
            gate.write_text(PASSPHRASE)
            answers = [read_all(client).replace(protocol.WORKING, b"") for client in waiting]
        # The last is dropped for the next. `get` needs no place, unless its request comes after its connection.
        assert [bool(answer) for answer in answers[:7]] == [True] * 4 + [False] * 3

    def test_client_is_accepted_after_descriptors_ran_out_once(self, running: Running, monkeypatch: Patch) -> None:
        running.get()
        monkeypatch.setattr(running.server._acceptor, "_listener", Refusing(running.server._acceptor._listener, 1))
        assert credentials(running.get())

    @pytest.mark.slow
    def test_agent_pauses_when_accept_keeps_failing(self, running: Running, monkeypatch: Patch) -> None:
        running.get()
        with running.connect() as silent:
            running.settle()
            refusing = Refusing(running.server._acceptor._listener, 10**9)
            monkeypatch.setattr(running.server._acceptor, "_listener", refusing)
            before, begin = len(running.log), time.monotonic()
            with running.connect():
                assert silent.recv(1) == b""  # It is dropped for the new one.
                time.sleep(0.3)
                running.settle()
                most = (time.monotonic() - begin) / listener.PAUSE + 1
                assert 1 <= refusing.calls <= most
                assert len(running.log) - before == refusing.calls + 1
                running.server.post(running.server.stop)  # While it pauses.
                running.thread.join(20)
                assert not running.thread.is_alive()

    def test_memory_does_not_grow_with_refreshes(self, running: Running) -> None:
        running.get()
        used = running.secrets()
        for _ in range(5):
            assert running.ask(b"1 refresh web\n").count(b"1 ok") == 1
            running.get()
        assert running.secrets() == used


class TestUsers:
    def be(self, monkeypatch: Patch, uid: int) -> None:
        monkeypatch.setattr(listener, "peer_uid", lambda _: uid)

    def test_another_user_is_refused_and_logged(self, running: Running, monkeypatch: Patch) -> None:
        self.be(monkeypatch, 4711)
        assert running.ask(b"1 get web\n") == b""
        assert running.log == ["user 4711 was refused"]

    @pytest.mark.parametrize(
        ("users", "is_served"), [(["4711"], True), (["root", "4711"], True), (["4712"], False), ([], False)]
    )
    def test_system_s_agent_serves_allow_users(
        self, home: Home, monkeypatch: Patch, users: list[str], is_served: bool
    ) -> None:
        self.be(monkeypatch, 4711)
        home.write_profiles(web={"allow-users": users})
        with run_agent(home, is_system=True) as running:
            answer = running.get()
            assert answer.startswith(b"1 ok " if is_served else b"1 error 7 ")
            assert ("profile 'web': user 4711 was refused" in running.log) is not is_served

    @pytest.mark.parametrize(("group", "is_served"), [(os.getegid(), True), (4712, False), (65534, False)])
    def test_system_s_agent_serves_the_groups_of_allow_users(
        self, home: Home, monkeypatch: Patch, group: int, is_served: bool
    ) -> None:
        self.be(monkeypatch, 4711)
        home.write_profiles(web={"allow-users": [f"@{group}"]})
        with run_agent(home, is_system=True) as running:
            assert running.get().startswith(b"1 ok " if is_served else b"1 error 7 ")

    def test_unknown_group_in_allow_users_is_ignored_and_logged(self, running: Running) -> None:
        running.home.write_profiles(web={"allow-users": ["@no-such-group"]})
        assert credentials(running.get())
        assert "allow-users names 'no-such-group', which is not a group of this system" in running.log[0]

    def test_locked_profile_of_the_system_s_agent_is_unlocked_with_system(self, home: Home) -> None:
        key = home.encrypted_key("web")
        home.write_profiles(web={"private-key": str(key)})
        for is_system, words in ((True, b"agent unlock --system web"), (False, b"agent unlock web")):
            with run_agent(home, is_system=is_system) as running:
                assert running.get().endswith(b"Run hwsigner " + words)

    @pytest.mark.parametrize("uid", [0, os.geteuid()])
    def test_system_s_agent_serves_root_and_its_own_user(self, home: Home, monkeypatch: Patch, uid: int) -> None:
        self.be(monkeypatch, uid)
        home.write_profiles(web={"allow-users": ["4711"]})
        with run_agent(home, is_system=True) as running:
            assert credentials(running.get())

    @pytest.mark.parametrize("line", ["status", "stop", "lock", "lock web", "unlock web", "refresh web"])
    def test_other_users_can_send_no_commands(self, home: Home, monkeypatch: Patch, line: str) -> None:
        self.be(monkeypatch, 4711)
        home.write_profiles(web={"allow-users": ["4711"]})
        with run_agent(home, is_system=True) as running:
            assert running.ask(f"1 {line}\n".encode()).startswith(b"1 error 7 ")
            assert credentials(running.get())

    @pytest.mark.parametrize(("text", "user"), [("no-such-user", "no-such-user"), ("²", "²"), ("a\\u0000b", "a\0b")])
    def test_unknown_user_in_allow_users_is_ignored_and_logged(self, running: Running, text: str, user: str) -> None:
        running.home.write_profiles(web={"allow-users": [text]})
        assert credentials(running.get())
        problem = f"warning: allow-users names {user!r}, which is not a user of this system. "
        assert running.log[0] == f"{problem}For a unit with DynamicUser=yes, name a group: see hwsigner help agent"

    def test_unknown_group_in_allow_users_is_logged_with_how_to_make_it(self, running: Running) -> None:
        running.home.write_profiles(web={"allow-users": ["@no-such-group"]})
        assert credentials(running.get())
        problem = "warning: allow-users names 'no-such-group', which is not a group of this system. "
        assert running.log[0] == f"{problem}Make it with groupadd --system, or correct the name"


class TestConfiguration:
    @pytest.mark.parametrize(
        ("value", "attended"), [(True, True), (False, False), ("true", True), ("false", False), (None, None)]
    )
    def test_attended_is_read_from_the_profile(
        self, home: Home, monkeypatch: Patch, value: Any, attended: bool | None
    ) -> None:
        told: list[bool | None] = []

        configure = Refresher.configure

        def note(refresher: Refresher, *, attended: bool | None, **options: Any) -> None:
            told.append(attended)
            configure(refresher, attended=attended, **options)

        monkeypatch.setattr(Refresher, "configure", note)
        home.write_profiles(web={} if value is None else {"attended": value})
        with run_agent(home) as running:
            assert credentials(running.get())
        assert told == [attended]

    def test_change_of_the_file_is_seen(self, running: Running) -> None:
        running.get()
        running.home.write_profiles(web={"session-duration": 900}, new={})
        left = datetime.fromisoformat(str(credentials(running.get())["Expiration"])) - datetime.now(UTC)
        assert left.total_seconds() <= 900
        assert credentials(running.get("new"))

    def test_unchanged_profile_keeps_its_session(self, running: Running) -> None:
        first = running.get()
        running.home.write_profiles(web={}, new={})
        assert running.get() == first

    def test_removed_profile_is_unknown(self, running: Running) -> None:
        running.get()
        running.home.write_profiles(other={})
        assert running.get() == b"1 unknown\n"

    @pytest.mark.parametrize("text", ["[profile", "[other]\n"])
    def test_unusable_file_changes_nothing(self, running: Running, text: str) -> None:
        first = running.get()
        (running.home.folder / "config" / "hwsigner" / "config.toml").write_text(text)
        assert running.get() == running.get() == first
        assert [line.partition(" were: ")[0] for line in running.log[1:]] == ["error: the profiles stay as they"]

    def test_file_that_became_readable_is_read_though_its_text_is_the_same(
        self, running: Running, monkeypatch: Patch
    ) -> None:
        file = running.home.folder / "config" / "hwsigner" / "config.toml"
        read = config.read_file
        monkeypatch.setattr(config, "read_file", lambda path: read(path) if file.stat().st_mode & 0o040 else None)
        file.chmod(0o600)
        file.touch()
        assert running.get() == b"1 unknown\n"
        file.chmod(0o640)
        assert credentials(running.get())

    def test_user_s_agent_leaves_profiles_with_allow_users_to_the_system_s(
        self, home: Home, monkeypatch: Patch
    ) -> None:
        home.write_profiles(web={"allow-users": ["root"]}, free={})
        file = home.folder / "config" / "hwsigner" / "config.toml"
        monkeypatch.setattr("hwsigner._config.profiles.SYSTEM_FILE", str(file))
        monkeypatch.setattr("hwsigner._config.profiles.user_file", lambda _: home.folder / "none")
        with run_agent(home) as running:
            assert running.get() == b"1 unknown\n"
            assert credentials(running.get("free"))

    def test_profile_that_is_served_is_the_one_that_was_read(self, running: Running, monkeypatch: Patch) -> None:
        profiles = running.server._profiles
        monkeypatch.setattr(profiles, "_look", lambda: profiles._seen)  # As if the change were seen a little later.
        running.home.write_profiles(web={"session-duration": 900})
        left = datetime.fromisoformat(str(credentials(running.get())["Expiration"])) - datetime.now(UTC)
        assert left.total_seconds() > 900

    @pytest.mark.parametrize(
        "values", [{"x": 1}, {"allow-users": "root"}, {"attended": "maybe"}, {"session-duration": 1}], ids=repr
    )
    def test_unusable_profile_does_not_affect_others(self, running: Running, values: dict[str, Any]) -> None:
        running.home.write_profiles(web=values, other={})
        answer = running.get()
        assert answer.startswith(b"1 error 2 ")
        assert b"[profile.web] has" in answer
        assert running.get() == answer
        assert credentials(running.get("other"))
        assert b"\nweb\tfailing\t\t/" in running.ask(b"1 status\n")
        assert [line for line in running.log if line.startswith("error: profile 'web' can't be used: ")]
        running.home.write_profiles(web={})
        assert credentials(running.get())

    def test_commands_for_all_profiles_see_a_change(self, running: Running) -> None:
        running.home.write_profiles(web={}, new={})
        assert running.ask(b"1 lock\n").endswith(b"locked: new, web")
        assert running.get("new").startswith(b"1 error 3 ")

    def test_reload_while_stopping_is_ignored(self, home: Home) -> None:
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri})
        with run_agent(home) as running, running.waiting(b"1 get web\n") as client:
            running.server.post(running.server.stop)
            home.write_profiles(web={"private-key": uri}, new={})
            running.server.post(running.server.reload)
            running.settle()
            assert len(running.server._profiles) == 1
            gate.write_text(PASSPHRASE)
            assert credentials(read_end(client))


class TestThreads:
    def test_no_thread_is_left_at_the_end(self, home: Home) -> None:
        before = set(threading.enumerate())
        with run_agent(home) as running:
            running.get()
            running.ask(b"1 lock\n")
        # The timer is the process's: it starts with the first provider and stays.
        left = [one for one in threading.enumerate() if one not in before and one.name != "hwsigner-timer"]
        for thread in left:
            thread.join(20)
        assert not [thread for thread in left if thread.is_alive()]


def test_idle_loop_sleeps(running: Running) -> None:
    running.settle()
    with pytest.raises(BlockingIOError):  # Nothing is left that would wake it.
        os.read(running.server._woken, 1)


def test_post_after_the_end_writes_to_no_other_descriptor(home: Home) -> None:
    with run_agent(home) as running:
        pass
    acts: list[None] = []
    running.server.post(lambda: acts.append(None))
    assert os.read(running.server._woken, 2) == b"\0"  # It stays the server's as long as anything can be posted.
    assert not acts


def test_pipe_is_closed_with_the_server(home: Home) -> None:
    with run_agent(home) as running:
        ends = running.server._woken, running.server.wake
    del running
    gc.collect()
    for end in ends:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)


def test_post_to_a_loop_that_is_behind_waits_for_nothing(running: Running) -> None:
    """Its pipe is full: what is posted is done all the same."""
    is_free, done = threading.Event(), threading.Event()
    running.server.post(lambda: assert_set(is_free))
    with suppress(BlockingIOError):
        while os.write(running.server.wake, bytes(65536)):
            pass
    running.server.post(done.set)
    is_free.set()
    assert done.wait(20)


def assert_set(event: threading.Event) -> None:
    assert event.wait(20)
