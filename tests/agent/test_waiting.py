"""A person at a token whose key is in an agent: its clients are told what to do, and Ctrl-C ends only their waiting."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import certs
from agent.homes import PASSPHRASE, Home, Running, read_all, run_agent
from hwsigner._agent import protocol
from hwsigner._agent.client import command
from hwsigner._agent.protocol import AgentRequest, Verb
from hwsigner.key import open_key
from pkcs11_shim import LOGIN, SIGN, Shim
from terminals import Terminal

pytestmark = pytest.mark.process

TOUCH = "web: touch token 'one' if it blinks: waiting for its signature"
KEYPAD = 0x100
BOTO3 = """
import hwsigner.boto3
print(hwsigner.boto3.session("web").get_credentials().access_key)
"""


@pytest.fixture
def web(home: Home, shim: Shim) -> Home:
    """A home whose profile `web` has a key in a token that waits for a touch."""
    pin = home.folder / "pin"
    pin.touch(0o600)
    pin.write_text("1234")
    uri = f"{shim.uri()}&pin-source=file:{pin}"
    with open_key(uri, allow_modules=True) as key:
        public_key = key.public_key()
    assert public_key
    (home.folder / "web.pem").write_bytes(certs.pem(certs.issue(home.ca, public_key)))
    home.write_profiles(web={"private-key": uri}, other={})
    shim.reset()
    shim.hold()
    return home


@pytest.fixture
def running(web: Home, shim: Shim) -> Iterator[Running]:
    with run_agent(web) as running:
        try:
            yield running
        finally:
            shim.hold(held=False)


@pytest.fixture(params=["hwsigner-credentials", "credential-process", "exec", "update", "boto3"])
def waiter(request: pytest.FixtureRequest, real_program: Path, home: Home) -> list[str]:
    """A command that gets the credentials of `web` from the agent."""
    hwsigner = str(real_program.with_name("hwsigner"))
    return {
        "hwsigner-credentials": [str(real_program), "--profile", "web"],
        "credential-process": [hwsigner, "credential-process", "--profile", "web"],
        "exec": [hwsigner, "exec", "web", "--", "true"],
        "update": [hwsigner, "update", "--once", "--config-profile", "web"],
        "boto3": [sys.executable, "-c", BOTO3],
    }[request.param]


def wait_until_told(running: Running) -> None:
    """Wait until the agent knows that the token waits for a touch."""
    deadline = time.monotonic() + 20
    while TOUCH not in running.log:
        assert time.monotonic() < deadline, running.log
        time.sleep(0.01)


class TestNotices:
    def test_waiter_sees_on_the_terminal_what_the_token_waits_for(
        self, running: Running, shim: Shim, terminal: Terminal, waiter: list[str]
    ) -> None:
        process = terminal.start(*waiter, **running.home.environ)
        assert terminal.shown_until("\n") == f"hwsigner: {TOUCH}\r\n"
        shim.hold(held=False)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert b"touch" not in err
        assert running.log.count(TOUCH) == 1

    def test_aws_cli_does_not_hide_it(
        self, running: Running, shim: Shim, terminal: Terminal, real_program: Path
    ) -> None:
        config = running.home.folder / ".aws" / "config"
        config.parent.mkdir()
        config.write_text(f"[profile web]\ncredential_process = {real_program} --profile web\n")
        aws = ("/usr/bin/aws", "configure", "export-credentials", "--profile", "web")
        process = terminal.start(*aws, **running.home.environ)
        terminal.shown_until(f"hwsigner: {TOUCH}\r\n")
        shim.hold(held=False)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, b"AccessKeyId" in out, err) == (0, True, b"")

    def test_client_that_comes_later_is_told_too(self, running: Running, shim: Shim) -> None:
        with running.waiting(b"1 get web\n"):
            wait_until_told(running)
            with running.connect() as late:
                late.sendall(b"1 get web notes\n")
                assert late.recv(1000) == protocol.note(TOUCH)
                shim.hold(held=False)
                assert read_all(late).replace(protocol.WORKING, b"").startswith(b"1 ok ")

    def test_client_of_an_earlier_version_is_sent_no_note(self, running: Running, shim: Shim) -> None:
        with running.waiting(b"1 get web\n") as old:
            wait_until_told(running)
            time.sleep(2 * protocol.WORKING_EVERY)
            shim.hold(held=False)
            assert read_all(old).replace(protocol.WORKING, b"").startswith(b"1 ok ")

    def test_those_who_do_not_wait_are_told_nothing(self, running: Running, shim: Shim) -> None:
        with running.waiting(b"1 get web\n"):
            wait_until_told(running)
            assert b"note" not in running.ask(b"1 get other notes\n")
            shim.hold(held=False)
        assert running.get().startswith(b"1 ok ")
        assert running.ask(b"1 get web notes\n").startswith(b"1 ok ")

    def test_note_is_over_with_the_touch(self, running: Running, shim: Shim) -> None:
        with running.waiting(b"1 get web\n"):
            wait_until_told(running)
            shim.hold(held=False)
        assert running.get().startswith(b"1 ok ")
        profile = running.server._profiles.find("web")
        assert profile
        assert profile.notice is None

    def test_key_that_needs_no_person_has_no_notice(self, web: Home, shim: Shim) -> None:
        web.write_profiles(web={"private-key": f"{shim.uri()}&pin-source=file:{web.folder / 'pin'}", "attended": False})
        with run_agent(web) as running, running.waiting(b"1 get web notes\n") as client:
            time.sleep(3 * protocol.WORKING_EVERY)
            shim.hold(held=False)
            assert read_all(client).replace(protocol.WORKING, b"").startswith(b"1 ok ")
            assert TOUCH not in running.log

    def test_pin_for_the_keypad_is_asked_for_at_once(self, web: Home, shim: Shim) -> None:
        web.write_profiles(web={"private-key": shim.uri()})
        shim.hold(held=False)
        shim.flags(raised=KEYPAD)
        with run_agent(web) as running:
            assert running.get().startswith(b"1 ok ")
            assert "web: type the PIN of token 'one' at its keypad" in running.log


class TestInterrupt:
    @pytest.mark.parametrize("waiter", ["hwsigner-credentials", "exec", "boto3"], indirect=True)
    def test_ctrl_c_ends_the_waiter_and_nothing_else(
        self, running: Running, shim: Shim, terminal: Terminal, waiter: list[str]
    ) -> None:
        process = terminal.start(*waiter, **running.home.environ)
        terminal.shown_until(TOUCH)
        with running.waiting(b"1 get web\n") as other:
            terminal.type(b"\x03")
            out, err = process.communicate(timeout=60)
            assert shim.waiting() == 1  # The key is still at work, for the other client.
            if waiter[0] != sys.executable:  # Python shows a traceback of a program.
                assert (out, err) == (b"", b"")
            assert process.returncode in (130, -2)
            assert terminal.echoes()
            shim.hold(held=False)
            assert read_all(other).replace(protocol.WORKING, b"").startswith(b"1 ok ")
        assert (shim.count(LOGIN), shim.count(SIGN)) == (1, 1)
        assert command(running.home.address, AgentRequest(Verb.STATUS)).count("\tready\t") == 1

    @pytest.mark.parametrize("waiter", ["credential-process", "exec"], indirect=True)
    def test_ctrl_c_ends_a_command_whose_own_key_waits_for_a_touch(
        self, web: Home, shim: Shim, terminal: Terminal, waiter: list[str]
    ) -> None:
        environ = {**web.environ, **shim.env, "HWSIGNER_AGENT": "none"}
        process = terminal.start(*waiter, **environ, SHIM_SECONDS="600")
        terminal.shown_until("touch token 'one' if it blinks: waiting for its signature\r\n")
        terminal.type(b"\x03")
        assert process.communicate(timeout=60) == (b"", b"")
        assert (process.returncode, terminal.echoes()) == (130, True)
        # No lock is left, and no record that the PIN was refused.
        again = terminal.start(*waiter, **environ)
        again.communicate(timeout=60)
        assert again.returncode == 0

    def test_ctrl_c_ends_a_login_at_the_keypad(
        self, web: Home, shim: Shim, terminal: Terminal, real_program: Path
    ) -> None:
        hwsigner = str(real_program.with_name("hwsigner"))
        web.write_profiles(web={"private-key": shim.uri()})
        environ = {**web.environ, **shim.env, "HWSIGNER_AGENT": "none", "SHIM_KEYPAD_SECONDS": "600"}
        process = terminal.start(hwsigner, "credential-process", "--profile", "web", **environ)
        terminal.shown_until("type the PIN of token 'one' at its keypad\r\n")
        time.sleep(0.5)  # Before, Python still raises KeyboardInterrupt by itself.
        terminal.type(b"\x03")
        assert process.communicate(timeout=60) == (b"", b"")
        assert (process.returncode, terminal.echoes()) == (130, True)

    def test_ctrl_c_at_the_prompt_of_unlock_sends_nothing(
        self, home: Home, terminal: Terminal, real_program: Path
    ) -> None:
        home.write_profiles(web={"private-key": str(home.encrypted_key("web"))})
        with run_agent(home) as running:
            process = terminal.start(str(real_program.with_name("hwsigner")), "agent", "unlock", "web", **home.environ)
            terminal.shown_until(": ")
            terminal.wait_until_silent()
            terminal.type(b"half\x03")
            assert process.communicate(timeout=60) == (b"", b"")
            assert (process.returncode, terminal.echoes()) == (130, True)
            assert command(running.home.address, AgentRequest(Verb.UNLOCK, "web"), lambda _: PASSPHRASE)
