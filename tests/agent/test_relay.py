"""Commands that start an agent, hand their session over to it, and ask their user for a PIN that it needs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

import certs
from agent.conftest import FakeAgent, Talk
from agent.homes import PASSPHRASE, Home, Running, run_agent
from agent.processes import agent_process, ask
from alive import is_alive
from emulators import InProcessSoftHSM
from hwsigner._agent import client
from hwsigner._agent.client import command, find_credentials, is_running
from hwsigner._agent.protocol import AgentRequest, Verb, with_body
from hwsigner._agent.relay import hand_over
from hwsigner._aws.credentials import Credentials, read_agent_credentials
from hwsigner._config.profiles import profile
from hwsigner.errors import AgentError
from judges import needs_linux
from softhsm.token import PIN
from softhsm.yubikey import YKCS11, YubiKey
from terminals import Terminal

PROFILE = ("--profile", "web")
UNLOCK = AgentRequest(Verb.UNLOCK, "web")
TOUCH_ALWAYS = 2


@pytest.fixture
def auto(home: Home) -> Iterator[Home]:
    """A home whose agents are stopped at the end."""
    yield home
    with suppress(AgentError):
        command(home.address, AgentRequest(Verb.STOP))


@pytest.fixture
def locked(auto: Home) -> Home:
    """A home whose profile has a passphrase that is stored nowhere."""
    auto.write_profiles(web={"private-key": str(auto.encrypted_key("web")), "agent": "auto"})
    return auto


def key_id(output: bytes | str) -> str:
    found: str = json.loads(output)["AccessKeyId"]
    return found


def typed(process: subprocess.Popen[bytes], terminal: Terminal, question: str, *pins: str) -> tuple[int, bytes, bytes]:
    """Answer a question on the terminal; return the exit status and what was written to stdout and stderr."""
    for pin in pins:
        terminal.shown_until(question)
        terminal.wait_until_silent()
        terminal.type(pin.encode() + b"\n")
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def start(program: Path, home: Home, terminal: Terminal) -> subprocess.Popen[bytes]:
    """Start hwsigner-credentials on a terminal, as the AWS CLI does."""
    return terminal.start(str(program), *PROFILE, **environ(home))


def environ(home: Home) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name.startswith(("SOFTHSM2_", "PCSCLITE_"))}
    return {**own, **home.environ}


def agent_id(home: Home) -> int:
    """Return the agent's process."""
    return int(command(home.address, AgentRequest(Verb.STATUS)).split("\n")[0].rpartition("process ")[2])


def restart_agent(home: Home) -> None:
    """Stop the agent, and wait until it is gone: the next one has no session and no PIN."""
    command(home.address, AgentRequest(Verb.STOP))
    while is_running(home.address):
        time.sleep(0.01)


class TestFirstHour:
    """Commands with a PIN that a person types, or a touch: one for all of them."""

    def test_pin_of_a_token_is_typed_once(
        self, auto: Home, softhsm: InProcessSoftHSM, terminal: Terminal, real_program: Path
    ) -> None:
        softhsm.generate("relay", b"\x21", "EC:prime256v1")
        uri = f"pkcs11:token={softhsm.label};object=relay?module-path={softhsm.module}"
        (auto.folder / "web.pem").write_bytes(certs.pem(certs.issue(auto.ca, softhsm.public_key(b"\x21"))))
        auto.write_profiles(web={"private-key": uri, "agent": "auto"})
        status, out, err = typed(start(real_program, auto, terminal), terminal, "user PIN for token", PIN)
        assert (status, err) == (0, b"")
        for _ in range(5):
            done = ask(real_program, auto, *PROFILE, **environ(auto))
            assert (done.returncode, key_id(done.stdout)) == (0, key_id(out))
        assert len(auto.emulator.requests) == 1
        # The agent has the session, and not the PIN, which the second session needs.
        restart_agent(auto)
        with agent_process(auto, **environ(auto)) as agent:
            done = ask(real_program, auto, *PROFILE, **environ(auto))
            assert (done.returncode, done.stdout) == (3, "")  # Without a terminal.
            status, second, err = typed(start(real_program, auto, terminal), terminal, "user PIN for token", PIN)
            assert (status, err) == (0, b"")
            command(auto.address, AgentRequest(Verb.REFRESH, "web"))  # With the PIN that the agent has now.
            assert ask(real_program, auto, *PROFILE).returncode == 0
            assert PIN not in agent.stop()[1]
        assert key_id(second) != key_id(out)
        assert len(auto.emulator.requests) == 3

    def test_key_is_touched_once(self, auto: Home, yubikey: YubiKey, terminal: Terminal, real_program: Path) -> None:
        yubikey.write_chuid()
        yubikey.generate(0x9A, touch_policy=TOUCH_ALWAYS)
        yubikey.self_sign(0x9A, "hwsigner")
        (auto.folder / "web.pem").write_bytes(certs.pem(certs.issue(auto.ca, yubikey.public_key(0x9A))))
        auto.write_profiles(web={"private-key": yubikey.uri(0x9A, YKCS11), "agent": "auto"})
        process = start(real_program, auto, terminal)
        terminal.shown_until("user PIN for token")
        terminal.wait_until_silent()
        terminal.type(yubikey.pin.encode() + b"\n")
        terminal.shown_until("touch token")
        yubikey.touch()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")
        for _ in range(5):
            done = ask(real_program, auto, *PROFILE, **environ(auto))  # It would fail after 15 s without a touch.
            assert (done.returncode, key_id(done.stdout)) == (0, key_id(out))
        assert len(auto.emulator.requests) == 1
        assert yubikey.pin_tries == [0x9000]

    @pytest.mark.slow
    @pytest.mark.parametrize("seconds", [0, 0.2, 0.4, 0.8])
    def test_kill_during_the_hand_over_costs_a_question_at_most(
        self, locked: Home, terminal: Terminal, real_program: Path, seconds: float
    ) -> None:
        first = start(real_program, locked, terminal)
        terminal.shown_until("passphrase for")
        terminal.wait_until_silent()
        terminal.type(PASSPHRASE.encode() + b"\n")
        assert first.stdout is not None
        assert key_id(first.stdout.readline())
        time.sleep(seconds)
        first.kill()
        first.communicate(timeout=60)
        second = start(real_program, locked, terminal)
        while second.poll() is None and terminal.echoes():
            time.sleep(0.01)
        if second.poll() is None:
            terminal.type(PASSPHRASE.encode() + b"\n")
        out, err = second.communicate(timeout=60)
        assert (second.returncode, err) == (0, b"")
        assert key_id(ask(real_program, locked, *PROFILE).stdout) == key_id(out)
        assert len(locked.emulator.requests) <= 2

    def test_wrong_pin_is_sent_once(self, auto: Home, yubikey: YubiKey, terminal: Terminal, real_program: Path) -> None:
        yubikey.write_chuid()
        yubikey.generate(0x9A)
        yubikey.self_sign(0x9A, "hwsigner")
        (auto.folder / "web.pem").write_bytes(certs.pem(certs.issue(auto.ca, yubikey.public_key(0x9A))))
        auto.write_profiles(web={"private-key": yubikey.uri(0x9A, YKCS11)})
        with agent_process(auto, **environ(auto)) as agent:
            pins = ("999999", "999998")
            status, out, err = typed(start(real_program, auto, terminal), terminal, "user PIN for token", *pins)
            assert (status, out) == (3, b"")
            tries = len(yubikey.pin_tries)
            assert tries == 2  # Each of those that were typed.
            assert ask(real_program, auto, *PROFILE, **environ(auto)).returncode == 3
            assert len(yubikey.pin_tries) == tries
            assert b"999999" not in err
            assert "999999" not in agent.stop()[1]


class TestRuntimeFolder:
    @pytest.mark.slow
    @needs_linux
    def test_folder_that_is_made_again_has_one_agent(self, auto: Home, real_program: Path) -> None:
        auto.write_profiles(web={"agent": "auto"})
        assert ask(real_program, auto, *PROFILE).returncode == 0
        first = agent_id(auto)
        shutil.rmtree(auto.folder / "run")
        assert ask(real_program, auto, *PROFILE).returncode == 0  # `environ` makes the folder again.
        assert agent_id(auto) != first
        deadline = time.monotonic() + 20  # Without being told, it would look once a minute.
        while is_alive(first):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", [None, 0o777])
    def test_folder_that_is_missing_or_not_safe_is_said_once(
        self, auto: Home, terminal: Terminal, real_program: Path, mode: int | None
    ) -> None:
        auto.write_profiles(web={"agent": "auto"})
        runtime = auto.folder / "runtime"
        if mode:
            runtime.mkdir()
            runtime.chmod(mode)
        environ = {**auto.environ, "XDG_RUNTIME_DIR": str(runtime)}
        mark = Path(f"/tmp/hwsigner-{os.getuid()}/no-runtime-folder")
        mark.unlink(missing_ok=True)
        try:
            for _ in range(2):
                process = terminal.start(str(real_program), *PROFILE, **environ)
                out, err = process.communicate(timeout=60)
                assert (process.returncode, bool(out), err) == (0, True, b"")
            terminal.start("sh", "-c", "echo end > /dev/tty").communicate(timeout=60)
            shown = terminal.shown_until("end")
        finally:
            mark.unlink(missing_ok=True)
        assert shown.count(f"web: no agent can start without a runtime folder of yours at {runtime}. ") == 1
        assert shown.count("hwsigner: ") == 1
        assert not mode or not list(runtime.iterdir())


class TestRelay:
    """The agent runs, and needs a PIN."""

    @pytest.mark.slow
    def test_pin_is_asked_and_goes_to_the_agent(self, locked: Home, terminal: Terminal, real_program: Path) -> None:
        with agent_process(locked) as agent:
            status, out, err = typed(start(real_program, locked, terminal), terminal, "passphrase for", PASSPHRASE)
            assert (status, err) == (0, b"")
            assert key_id(ask(real_program, locked, *PROFILE).stdout) == key_id(out)
            assert PASSPHRASE not in agent.stop()[1]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "line", ["update --once --config-profile web", "exec --profile web -- true", "console --profile web"]
    )
    def test_other_commands_ask_too(self, locked: Home, terminal: Terminal, real_program: Path, line: str) -> None:
        hwsigner = str(real_program.with_name("hwsigner"))
        with agent_process(locked):
            process = terminal.start(hwsigner, *line.split(), **locked.environ)
            typed(process, terminal, "passphrase for", PASSPHRASE)
            assert ask(real_program, locked, *PROFILE).returncode == 0
        assert len(locked.emulator.requests) == 1

    @pytest.mark.slow
    def test_pinentry_of_the_profile_is_asked(
        self, locked: Home, terminal: Terminal, real_program: Path, tmp_path: Path
    ) -> None:
        pinentry = tmp_path / "pinentry"
        pinentry.write_text(f"#!/bin/sh\n{PINENTRY}")
        pinentry.chmod(0o755)
        locked.write_profiles(web={"private-key": str(locked.folder / "web.key"), "pinentry": str(pinentry)})
        with agent_process(locked):
            out, err = start(real_program, locked, terminal).communicate(timeout=60)
            assert (bool(key_id(out)), err) == (True, b"")

    @pytest.mark.slow
    @pytest.mark.parametrize("victim", ["command", "agent"])
    def test_kill_at_the_question_leaves_nothing(
        self, locked: Home, terminal: Terminal, real_program: Path, victim: str
    ) -> None:
        with agent_process(locked) as agent:
            first = start(real_program, locked, terminal)
            terminal.shown_until("passphrase for")
            terminal.wait_until_silent()
            (first if victim == "command" else agent.process).kill()
            if victim == "agent":
                agent.process.wait()
                terminal.type(PASSPHRASE.encode() + b"\n")
                out, err = first.communicate(timeout=60)
                assert (first.returncode, out) == (7, b"")
                assert PASSPHRASE.encode() not in err
            first.communicate(timeout=60)
            # With the agent, or without one: then this command starts another.
            status, out, _ = typed(start(real_program, locked, terminal), terminal, "passphrase for", PASSPHRASE)
            assert (status, key_id(ask(real_program, locked, *PROFILE).stdout)) == (0, key_id(out))
        assert len(locked.emulator.requests) == 1

    @pytest.mark.slow
    def test_commands_at_once_ask_once(self, locked: Home, tmp_path: Path, real_program: Path) -> None:
        (tmp_path / "other").mkdir()
        terminals = [Terminal(tmp_path), Terminal(tmp_path / "other")]
        with agent_process(locked):
            first = start(real_program, locked, terminals[0])
            terminals[0].shown_until("passphrase for")
            second = start(real_program, locked, terminals[1])
            terminals[1].shown_until("web: another command asks for its PIN")
            status, out, _ = typed(first, terminals[0], "", PASSPHRASE)
            also, err = second.communicate(timeout=60)
        assert (status, second.returncode, err) == (0, 0, b"")
        assert key_id(out) == key_id(also)
        for terminal in terminals:
            terminal.close()

    def test_folder_that_vanishes_before_the_question_is_no_agent(
        self, runtime: Path, fake_agent: Callable[[Path, Talk], FakeAgent], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = runtime / "hwsigner"

        def talk(connection: socket.socket) -> None:
            folder.rename(runtime / "gone")
            connection.sendall(b"1 error 3 %d pin\n%s" % (len(PROBLEM), PROBLEM))

        fake_agent(folder, talk)
        monkeypatch.setattr("hwsigner._pins.terminal.has_terminal", lambda: True)
        environ = {"XDG_RUNTIME_DIR": str(runtime)}
        assert find_credentials("web", environ, ask_pin=lambda _: pytest.fail("asked")) is None
        (runtime / "gone").rename(folder)

    def test_profile_that_was_locked_stays_locked(self, locked: Home, terminal: Terminal, real_program: Path) -> None:
        with agent_process(locked):
            command(locked.address, UNLOCK, lambda _: PASSPHRASE)
            command(locked.address, AgentRequest(Verb.LOCK, "web"))
            out, err = start(real_program, locked, terminal).communicate(timeout=60)
            assert (out, b"it was locked with hwsigner agent lock" in err) == (b"", True)

    def test_command_in_the_background_is_not_asked(self, locked: Home, terminal: Terminal, real_program: Path) -> None:
        """It could not read from the terminal without being stopped."""
        with agent_process(locked):
            job = ["sh", "-c", f"set -m; {real_program} --profile web & wait $!"]
            process = terminal.start(*job, **locked.environ)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (3, b"")
        assert b"Run hwsigner agent unlock web" in err

    def test_token_that_takes_no_pin_is_not_asked_for_one(
        self, runtime: Path, fake_agent: Callable[[Path, Talk], FakeAgent], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        problem = b"profile 'web' is locked: its PIN is blocked. Once its PIN works, run hwsigner agent unlock web"
        fake_agent(runtime / "hwsigner", lambda one: one.sendall(b"1 error 3 %d\n%s" % (len(problem), problem)))
        environ = {"XDG_RUNTIME_DIR": str(runtime)}
        monkeypatch.setattr("hwsigner._pins.terminal.has_terminal", lambda: True)
        with pytest.raises(AgentError, match="blocked"):
            find_credentials("web", environ, ask_pin=lambda _: pytest.fail("asked"))

    def test_session_goes_to_root_on_a_mac_whose_launchd_listens_for_agents(
        self, runtime: Path, fake_agent: Callable[[Path, Talk], FakeAgent], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_agent(runtime / "hwsigner", lambda _: None)
        monkeypatch.setattr("hwsigner._agent.client.peer_uid", lambda _: 0)
        monkeypatch.setattr("hwsigner._system.launchd.is_here", lambda: True)
        with client.connected(client.user_address({"XDG_RUNTIME_DIR": str(runtime)}), is_own=True) as channel:
            assert channel

    @pytest.mark.parametrize("uid", [pytest.param(0, marks=needs_linux), 4711])
    def test_pin_and_session_go_to_no_other_user(
        self, runtime: Path, fake_agent: Callable[[Path, Talk], FakeAgent], monkeypatch: pytest.MonkeyPatch, uid: int
    ) -> None:
        """Root may give credentials, as systemd listens for agents. A PIN is for this user's process alone."""
        agent = fake_agent(runtime / "hwsigner", lambda _: None)
        monkeypatch.setattr("hwsigner._agent.client.peer_uid", lambda _: uid)
        monkeypatch.setattr("os.geteuid", lambda: 1234)
        monkeypatch.setattr(client.Address, "owner", lambda _: 1234)
        environ = {"XDG_RUNTIME_DIR": str(runtime)}
        with pytest.raises(AgentError, match=f"user {uid} listens at"):
            command(client.user_address(environ), UNLOCK, lambda _: pytest.fail("asked"))
        with pytest.raises(AgentError, match=f"user {uid} listens at"):
            hand_over("web", "", SESSION, environ)
        assert not any(agent.requests)

    def test_agent_that_ends_with_the_pin_is_an_error(
        self, runtime: Path, fake_agent: Callable[[Path, Talk], FakeAgent], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether the PIN was used is not known, so that nothing else may send it again."""
        pins = list[bytes]()

        def talk(connection: socket.socket) -> None:
            if agent.requests[-1].startswith(b"1 get"):
                connection.sendall(b"1 error 3 %d pin\n%s" % (len(PROBLEM), PROBLEM))
                return
            connection.sendall(with_body("ask", b"user PIN\ntoken 'x'\n\n"))
            pins.append(connection.recv(100))

        agent = fake_agent(runtime / "hwsigner", talk)
        monkeypatch.setattr("hwsigner._pins.terminal.has_terminal", lambda: True)
        environ = {"XDG_RUNTIME_DIR": str(runtime)}
        with pytest.raises(AgentError, match="closed the agent's socket"):
            find_credentials("web", environ, ask_pin=lambda _: "123456")
        assert pins == [b"1 pin 6\n123456"]


SESSION = Credentials("AKIA", "secret", "token", datetime(2100, 1, 1, tzinfo=UTC), "arn:role", "arn:session")
PINENTRY = f"""echo OK
while read -r line; do
    [ "$line" != GETPIN ] || echo "D {PASSPHRASE}"
    echo OK
    [ "$line" != BYE ] || exit
done
"""
PROBLEM = b"profile 'web' is locked: token 'x' needs its user PIN. Run hwsigner agent unlock web"


class TestHandOver:
    """What the agent takes, and from whom."""

    def credentials(self, home: Home) -> Credentials:
        """Return a session that a command created."""
        with run_agent(home) as running:
            body = running.get().partition(b"\n")[2]
        found = read_agent_credentials(body, role_arn=home.emulator.role_arn)
        home.emulator.requests.clear()
        return Credentials(**{**vars(found), "assumed_role_arn": "arn:a", "request_id": "r", "certificate_serial": 255})

    def give(self, running: Running, credentials: Credentials) -> None:
        digest = profile("web", running.home.environ).digest
        hand_over("web", digest, credentials, running.home.environ)

    def test_session_is_given_out_and_nothing_signed(self, home: Home) -> None:
        credentials = self.credentials(home)
        with run_agent(home) as running:
            self.give(running, credentials)
            assert running.get().partition(b"\n")[2].decode() == f"{credentials.process_json()}\n"
            assert home.emulator.requests == []
            assert any("session taken over" in line for line in running.log)
            assert credentials.secret_access_key not in "".join(running.log)
            assert running.secrets() == 1

    def test_key_waits_for_a_client_until_it_was_used(self, home: Home) -> None:
        """It may need a touch, which the agent would ask for while no command waits."""
        credentials = self.credentials(home)
        with run_agent(home) as running:
            self.give(running, credentials)
            provider = vars(running.server)["_profiles"].find("web")._provider
            assert provider.status().needs_person
            assert running.ask(b"1 refresh web\n").count(b"1 ok ") == 1
            assert not provider.status().needs_person

    def test_live_session_of_the_agent_stays(self, home: Home) -> None:
        credentials = self.credentials(home)
        with run_agent(home) as running:
            own = running.get()
            self.give(running, credentials)
            assert running.get() == own

    def test_session_of_a_profile_that_has_changed_is_not_given(self, home: Home) -> None:
        credentials, digest = self.credentials(home), profile("web", home.environ).digest
        home.write_profiles(web={"session-duration": 900})
        with run_agent(home) as running:
            hand_over("web", digest, credentials, home.environ)
            assert credentials.access_key_id.encode() not in running.get()

    def test_locked_profile_stays_locked(self, home: Home) -> None:
        credentials = self.credentials(home)
        with run_agent(home) as running:
            command(home.address, AgentRequest(Verb.LOCK, "web"))
            self.give(running, credentials)
            assert b"it was locked with hwsigner agent lock" in running.get()

    @pytest.mark.parametrize("body", [b"{}", b"\xff", b"[]", b'{"AccessKeyId": 1}'])
    def test_nonsense_is_refused(self, home: Home, body: bytes) -> None:
        with run_agent(home) as running, running.conversation(b"1 put web\n") as channel:
            assert channel.answer()[0].kind == "ask"
            channel.send(with_body("session", body))
            assert channel.answer()[0].kind == "error"

    def test_session_that_has_expired_is_refused(self, home: Home) -> None:
        body = Credentials("AKIA", "secret", "token", datetime(2000, 1, 1, tzinfo=UTC), "arn:role", "").process_json()
        with run_agent(home) as running:
            with running.conversation(b"1 put web\n") as channel:
                channel.answer()
                channel.send(with_body("session", body.encode()))
                head, problem = channel.answer()
            assert (head.kind, b"the session has expired" in problem) == ("error", True)
            assert b'"AKIA"' not in running.get()

    def test_system_s_agent_takes_none(self, home: Home) -> None:
        credentials = self.credentials(home)
        with run_agent(home, is_system=True) as running:
            self.give(running, credentials)
            assert credentials.access_key_id.encode() not in running.get()

    def test_session_cut_off_is_dropped(self, home: Home) -> None:
        credentials = self.credentials(home)
        with run_agent(home) as running:
            with running.conversation(b"1 put web\n") as channel:
                channel.answer()
                channel.send(with_body("session", credentials.handover_json().encode())[:-9])
            assert credentials.access_key_id.encode() not in running.get()

    def test_wrong_stored_pin_is_not_sent_again(self, home: Home, tmp_path: Path) -> None:
        """A session from elsewhere does not mean that the PIN is right."""
        credentials = self.credentials(home)
        script, asked = tmp_path / "pin", tmp_path / "asked"
        script.write_text(f"#!/bin/sh\necho once >> {asked}\necho wrong\n")
        script.chmod(0o755)
        path = home.encrypted_key("web")
        home.write_profiles(web={"private-key": f"file:{path}?pin-source=cmd:{script}"})
        with run_agent(home) as running:
            assert running.get().startswith(b"1 error 3 ")
            self.give(running, credentials)
            assert running.get().startswith(b"1 ok ")
            running.ask(b"1 refresh web\n")
        assert asked.read_text() == "once\n"

    @pytest.mark.slow
    def test_audit_lines_have_all_fields(self, home: Home, real_program: Path) -> None:
        home.write_profiles(web={"agent": "auto"})
        file = Path(home.environ["XDG_CONFIG_HOME"]) / "hwsigner" / "config.toml"
        log = home.folder / "audit.log"
        with file.open("a") as stream:
            stream.write(f'[monitoring]\naudit-log = "{log}"\naudit = "required"\n')
        for _ in range(3):
            assert ask(real_program, home, *PROFILE).returncode == 0
        command(home.address, AgentRequest(Verb.STOP))
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(lines) == 3
        for name in ("profile", "access_key_id", "certificate_serial", "session_arn", "request_id"):
            assert len({line[name] for line in lines}) == 1, name
