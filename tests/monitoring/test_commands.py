"""The logs and audit logs of real commands: agent, serve, exec, update and credential-process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.conftest import home, real_program
from agent.homes import Home
from agent.processes import AGENT, agent_process, ask
from hwsigner.emulator import Fault
from judges import needs_netlink, needs_proc
from monitoring.test_page import examples
from serving.conftest import clock, stage
from serving.stage import PROGRAM, Process, Stage

pytestmark = pytest.mark.process

__all__ = ["clock", "home", "real_program", "stage"]
OTHER = 65534
SOME_FIELDS = {"executable", "executable_inode", "pidfd_id", "cgroup", "unit"}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def configure(environ: dict[str, str], **values: str) -> None:
    """Add a table to the user's config.toml."""
    folder = environ.get("XDG_CONFIG_HOME") or f"{environ['HOME']}/.config"
    path = Path(folder, "hwsigner", "config.toml")
    lines = [f'{name.replace("_", "-")} = "{value}"' for name, value in values.items()]
    path.write_text("\n".join([path.read_text(), "[monitoring]", *lines, ""]))


def agent_command(*flags: str) -> list[str]:
    return [*AGENT, *flags]


@pytest.mark.slow
@needs_proc
def test_agent_writes_a_line_each_time_that_it_gives_credentials(home: Home, real_program: Path) -> None:
    path = home.folder / "audit.log"
    with agent_process(home, agent_command(f"--audit-log={path}", "--log-format=json")) as agent:
        for _ in range(2):
            printed = json.loads(ask(real_program, home, "--profile", "web").stdout)
        subprocess.run(["sh", "-c", f"{real_program} --profile web; true"], env=home.environ, check=True)
        _, err = agent.stop()
    first, second, third = read(path)  # This process asked twice, through programs; then the shell did.
    [created] = [line for line in map(json.loads, err.splitlines()) if line.get("access_key_id")]
    for line in (first, second, third):
        assert line["access_key_id"] == created["access_key_id"] == printed["AccessKeyId"]
        assert (line["profile"], line["uid"]) == ("web", os.geteuid())
        # What runs outside of systemd and on an older kernel has not all of them, and the client shows no program.
        assert line.keys() | SOME_FIELDS == examples()[1].keys()
        assert line["session_arn"] == created["session_arn"]
        assert line["certificate_serial"] in line["session_arn"]
        assert line["request_id"] == created["request_id"] == home.emulator.requests[-1].request_id
    assert first["parent_pid"] == os.getpid()
    assert first["parent_executable"] == os.path.realpath("/proc/self/exe")
    assert third["parent_executable"] == os.path.realpath("/bin/sh")
    assert len({line["pid"] for line in (first, second, third)}) == 3
    for secret in (printed["SecretAccessKey"], printed["SessionToken"]):
        assert secret not in path.read_text() + err


# Gets credentials twice, under a name of its choice; then it becomes another program that does so too.
DISGUISED = """
import os, socket, sys
open("/proc/self/comm", "w").write("hwsigner-creden")
for _ in range(2):
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(sys.argv[1])
        asking.sendall(b"1 get web\\n")
        while asking.recv(65536):
            pass
os.execv(sys.argv[2], [sys.argv[2], "--profile", "web"])
"""


@pytest.mark.slow
@needs_proc
def test_disguised_programs_orphans_and_what_they_become_have_their_lines(home: Home, real_program: Path) -> None:
    path = home.folder / "audit.log"
    configure(home.environ, audit_log=str(path), audit="required")
    socket_path = f"{home.environ['XDG_RUNTIME_DIR']}/hwsigner/agent.sock"
    command = [sys.executable, "-c", DISGUISED, socket_path, str(real_program)]
    with agent_process(home):
        ask(real_program, home, "--profile", "web")  # Its parent, this process, has a line.
        subprocess.run(command, env=home.environ, check=True, capture_output=True)
        for _ in range(4):
            orphan = subprocess.run(
                ["sh", "-c", '"$@" & wait', "sh", "setsid", "--fork", str(real_program), "--profile", "web"],
                env=home.environ,
                check=True,
                capture_output=True,
                text=True,
            )
            assert "AccessKeyId" in orphan.stdout
    assert len(read(path)) == 1 + 3 + 4


@pytest.mark.slow
def test_agent_refuses_a_user_above_the_rate_with_a_clear_error(home: Home, real_program: Path) -> None:
    path = home.folder / "audit.log"
    with agent_process(home, agent_command(f"--audit-log={path}", "--audit=required", "--audit-rate=1")):
        done = [ask(real_program, home, "--profile", "web") for _ in range(3)]
    refused = next(one for one in done if one.returncode)  # A minute may have ended.
    assert (refused.returncode, refused.stdout) == (7, "")
    assert "got credentials 1 times within a minute" in refused.stderr
    assert "raise audit-rate" in refused.stderr


@pytest.mark.slow
def test_agent_gives_nothing_if_the_required_line_can_t_be_written(home: Home, real_program: Path) -> None:
    configure(home.environ, audit_log="/dev/full", audit="required")
    with agent_process(home) as agent:
        done = ask(real_program, home, "--profile", "web")
        _, err = agent.stop()
    problem = "the audit log /dev/full can't be written: No space left on device, and it is required"
    assert (done.returncode, done.stdout) == (7, "")
    assert f"profile 'web': {problem}" in done.stderr
    assert f"profile 'web': user {os.geteuid()} was refused: {problem}" in err


REORDERED = """
import json, sys
from hwsigner._aws.credentials import Credentials
from hwsigner._cli import main
in_order = Credentials.process_json
Credentials.process_json = lambda self: json.dumps(dict(reversed(json.loads(in_order(self)).items())))
sys.exit(main())
"""


def test_agent_writes_the_required_line_however_the_members_of_an_answer_are_ordered(
    home: Home, real_program: Path
) -> None:
    path = home.folder / "audit.log"
    configure(home.environ, audit_log=str(path), audit="required")
    with agent_process(home, [sys.executable, "-c", REORDERED, "agent"]):
        printed = json.loads(ask(real_program, home, "--profile", "web").stdout)
    assert list(printed)[-1] == "Version"
    assert [line["access_key_id"] for line in read(path)] == [printed["AccessKeyId"]]


@pytest.mark.slow
def test_agent_gives_credentials_and_warns_once_if_the_line_can_t_be_written(home: Home, real_program: Path) -> None:
    with agent_process(home, agent_command("--audit-log=/dev/full")) as agent:
        answers = [ask(real_program, home, "--profile", "web").returncode for _ in range(3)]
        _, err = agent.stop()
    assert answers == [0, 0, 0]
    assert err.count("the audit log /dev/full can't be written") == 1


@pytest.mark.slow
def test_agent_logs_who_got_credentials_at_the_level_debug(home: Home, real_program: Path) -> None:
    with agent_process(home, agent_command("--log-level=debug")) as agent:
        ask(real_program, home, "--profile", "web")
        _, err = agent.stop()
    assert f"profile 'web': credentials given to user {os.geteuid()}, process" in err


@pytest.mark.slow
def test_agent_logs_only_errors_at_the_level_error(home: Home, real_program: Path) -> None:
    with agent_process(home, agent_command("--log-level=error")) as agent:
        ask(real_program, home, "--profile", "web")
        _, err = agent.stop()
    assert err == ""


def test_failure_has_cause_and_request_id_in_the_log(home: Home, real_program: Path) -> None:
    home.emulator.misbehave(Fault.parse("deny*9"))
    with agent_process(home, agent_command("--log-format=json")) as agent:
        ask(real_program, home, "--profile", "web")
        _, err = agent.stop()
    [line] = [line for line in map(json.loads, err.splitlines()) if line.get("cause")]
    assert (line["level"], line["profile"], line["cause"]) == ("error", "web", "service")
    assert line["request_id"] in line["message"]
    assert line.keys() == examples()[0].keys()


@pytest.mark.parametrize("flag", ["--log-level=info", "--audit-log=stderr"])
def test_flags_of_a_new_agent_are_refused_for_commands_to_the_running_one(home: Home, flag: str) -> None:
    done = ask(PROGRAM, home, "agent", "status", flag)
    assert done.returncode == 2
    assert "is for an agent that is started" in done.stderr


def fetch(process: Process, *options: str) -> list[list[str]]:
    """Return commands that ask a server for the credentials of its profile: as this user, and as another one."""
    variables = process.variables()
    token = Path(variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).read_text()
    url = variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    command = ["curl", "-s", *options, "-H", f"Authorization: {token}", url]
    return [command, ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", *command]]


def output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@needs_netlink
def test_serve_writes_a_line_for_each_user(stage: Stage) -> None:
    path = stage.folder / "audit.log"
    users = [os.geteuid()] if os.geteuid() else [0, OTHER]  # Only root can be another user.
    flags = ("--port=0", f"--audit-log={path}", f"--allow-user={OTHER}")
    with stage.start("serve", "web", *flags) as process:
        commands = fetch(process)[: len(users)]
        replies = [json.loads(output(command)) for _ in range(3) for command in commands]
        assert process.end(signal.SIGTERM) == 0
    lines = read(path)
    assert [(line["profile"], line["uid"], line["address"]) for line in lines] == [
        ("web", uid, "127.0.0.1") for _ in range(3) for uid in users
    ]
    assert {line["access_key_id"] for line in lines} == {reply["AccessKeyId"] for reply in replies}
    assert all(line["request_id"] for line in lines)
    assert replies[0]["SecretAccessKey"] not in path.read_text()


@pytest.mark.slow
def test_serve_answers_503_if_the_required_line_can_t_be_written(stage: Stage) -> None:
    configure(stage.environ(), audit_log="/dev/full", audit="required")
    with stage.start("serve", "web", "--port=0") as process:
        reply = output(fetch(process, "-w", "%{http_code}")[0])
    assert reply.endswith("503")
    assert "the audit log /dev/full can't be written: No space left on device" in reply


@pytest.mark.slow
def test_serve_logs_lines_of_json_only(stage: Stage) -> None:
    with stage.start("serve", "web", "--port=0", "--log-format=json") as process:
        process.read_until("session created")
        assert process.end(signal.SIGTERM) == 0
    first, second = map(json.loads, process.lines)
    assert first["message"].startswith("listening on http://127.0.0.1:")
    assert (second["level"], second["profile"]) == ("info", "web")


def test_error_that_ends_serve_is_a_line_of_json(stage: Stage) -> None:
    stage.key.write_text("no key")
    with stage.start("serve", "web", "--port=0", "--log-format=json") as process:
        assert process.wait() == 3
    assert json.loads(process.lines[-1])["level"] == "error"


@pytest.mark.parametrize("command", ["credential-process", "update", "exec"])
@needs_proc
def test_command_that_creates_a_session_writes_its_line(stage: Stage, command: str) -> None:
    path = stage.folder / "audit.log"
    configure(stage.environ(), audit_log=str(path))
    script = 'curl -sf -H "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" "$AWS_CONTAINER_CREDENTIALS_FULL_URI"'
    arguments = {
        "credential-process": ["credential-process", "--profile=web"],
        "update": ["update", "--config-profile=web", "--once"],
        "exec": ["exec", "web", "--", "sh", "-c", script],
    }[command]
    done = stage.run(*arguments)
    assert done.returncode == 0, done.stderr
    [line] = read(path)
    assert (line["profile"], line["uid"]) == ("web", os.geteuid())
    assert line["request_id"] == stage.service.requests[-1].request_id
    if command == "credential-process":
        assert line["parent_pid"] == os.getpid()
    if command != "update":
        assert json.loads(done.stdout)["AccessKeyId"] == line["access_key_id"]


@pytest.mark.parametrize("arguments", ["credential-process --profile=web", "update --config-profile=web --once"])
def test_command_gives_nothing_if_the_required_line_can_t_be_written(stage: Stage, arguments: str) -> None:
    configure(stage.environ(), audit_log="/dev/full", audit="required")
    done = stage.run(*arguments.split())
    assert (done.returncode, done.stdout) == (7, "")
    assert "the audit log /dev/full can't be written" in done.stderr
    assert not list((stage.folder / "home").glob(".aws/credentials"))
