"""The system's agent and other users, in a mount namespace with a /run and an /etc of its own. Needs root."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.homes import Home
from agent.processes import AGENT, AgentProcess, agent_process
from hwsigner._monitoring.log import MAX_REFUSALS_PER_SECOND
from judges import needs_namespaces

pytestmark = [pytest.mark.root, needs_namespaces, pytest.mark.process]

ALLOWED, OTHER = 65533, 65532
GROUP = 65531
# What a user namespace calls every user that it does not map (user_namespaces(7)).
UNMAPPED = 65534
MOUNT = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$1" /etc
shift
exec "$@"
"""


@pytest.fixture
def agent(home: Home, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[AgentProcess]:
    """The system's agent, with one profile for one user, and an audit log. A parameter has what starts it."""
    home.write_profiles(web={"allow-users": [str(ALLOWED), str(UNMAPPED), f"@{GROUP}"]})
    with (home.folder / "config" / "hwsigner" / "config.toml").open("a") as file:
        file.write(f'[monitoring]\naudit-log = "{home.folder}/audit.log"\n')
    (tmp_path / "etc" / "hwsigner").mkdir(parents=True)
    for name in ("passwd", "group", "nsswitch.conf"):
        shutil.copy(f"/etc/{name}", tmp_path / "etc")
    shutil.move(home.folder / "config" / "hwsigner" / "config.toml", tmp_path / "etc" / "hwsigner")
    command = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", str(tmp_path / "etc")]
    command += [*getattr(request, "param", ()), *AGENT, "--system"]
    with agent_process(home, command) as agent:
        yield agent


def ask(agent: AgentProcess, program: Path, uid: int, *groups: int) -> subprocess.CompletedProcess[str]:
    """Run the program as a user, who has no agent of their own, in further groups."""
    inside = ["nsenter", f"--target={agent.process.pid}", "--mount"]
    further = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", further]
    # Other users can't enter the program's folder.
    command = f'exec 3<"{program}"; exec {" ".join(user)} /proc/self/fd/3 --profile web'
    return subprocess.run([*inside, "sh", "-c", command], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)


FLOOD = """
import socket
for _ in range(200):
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect("/run/hwsigner/agent.sock")
        asking.sendall(b"1 get web\\n")
        asking.recv(200)
"""


def test_flood_of_refusals_is_logged_at_a_limited_rate(agent: AgentProcess) -> None:
    inside = ["nsenter", f"--target={agent.process.pid}", "--mount"]
    user = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]
    begin = time.monotonic()
    subprocess.run([*inside, *user, "/usr/bin/python3", "-Ic", FLOOD], check=True, env={})
    seconds = int(time.monotonic() - begin) + 2
    _, err = agent.stop()
    refusal = f"hwsigner: profile 'web': user {OTHER} was refused"
    lines = err.splitlines()
    assert lines[0] == refusal
    assert lines.count(refusal) <= MAX_REFUSALS_PER_SECOND * seconds < 200


def test_users_that_the_profile_allows_are_served(agent: AgentProcess, real_program: Path) -> None:
    found = [ask(agent, real_program, uid) for uid in (ALLOWED, 0, ALLOWED)]
    assert [(done.returncode, done.stderr) for done in found] == [(0, "")] * 3
    assert len({json.loads(done.stdout)["AccessKeyId"] for done in found}) == 1


def test_members_of_the_groups_that_the_profile_allows_are_served(agent: AgentProcess, real_program: Path) -> None:
    """As a unit with DynamicUser= is, whose user has no name that could be written down."""
    served = [ask(agent, real_program, OTHER, *groups).returncode for groups in [(GROUP,), (4711, GROUP), (4711,), ()]]
    assert served == [0, 0, 7, 7]


# Runs a command as root, which loads the modules, and then as a user who can't enter the folders of programs.
AS_USER = """
import os, sys
import difflib
from hwsigner._cli import main
uid, words = int(sys.argv[1]), sys.argv[2:]
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = f"{os.environ['FILE']}.root"
main(words)
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.environ["FILE"]
sys.stdout.flush()
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.environ["HOME"] = "/nonexistent"
print("as user", flush=True)
sys.exit(main(words))
"""


def run_as(agent: AgentProcess, uid: int, *words: str, file: Path) -> subprocess.CompletedProcess[str]:
    inside = ["nsenter", f"--target={agent.process.pid}", "--mount", sys.executable, "-P", "-c", AS_USER, str(uid)]
    environ = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": "/nonexistent", "FILE": str(file)}
    return subprocess.run([*inside, *words], env=environ, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_exec_and_update_have_the_agent_s_credentials_for_a_user_who_cannot_read_the_profile(
    agent: AgentProcess, tmp_path: Path, short_folder: Path
) -> None:
    (tmp_path / "etc" / "hwsigner" / "config.toml").chmod(0o600)
    short_folder.chmod(0o777)
    shown = 'curl -s -H "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" "$AWS_CONTAINER_CREDENTIALS_FULL_URI"'
    done = run_as(agent, ALLOWED, "exec", "web", "--", "sh", "-c", f"id -u; {shown}", file=short_folder / "none")
    assert (done.returncode, done.stderr) == (0, "")
    (root, of_root), (user, of_user) = (part.split(maxsplit=1) for part in done.stdout.split("as user\n"))
    assert (root, user) == ("0", str(ALLOWED))
    given = json.loads(of_user)
    assert given["AccessKeyId"] == json.loads(of_root)["AccessKeyId"]
    file = short_folder / "credentials"
    command = ("update", "--once", "--config-profile=web")
    done = run_as(agent, ALLOWED, *command, file=file)
    assert (done.returncode, file.stat().st_uid) == (0, ALLOWED)
    assert f"aws_access_key_id = {given['AccessKeyId']}\n" in file.read_text()


@pytest.mark.parametrize("words", [("exec", "web", "--", "true"), ("update", "--once", "--config-profile=web")])
def test_exec_and_update_are_refused_for_other_users(
    agent: AgentProcess, tmp_path: Path, short_folder: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "etc" / "hwsigner" / "config.toml").chmod(0o600)
    done = run_as(agent, OTHER, *words, file=short_folder / "credentials")
    assert done.returncode == 7
    assert done.stderr.endswith(
        f"hwsigner: profile 'web' is not for user {OTHER}. See allow-users in hwsigner help agent\n"
    )


def test_audit_log_tells_users_apart(agent: AgentProcess, real_program: Path) -> None:
    for uid in (ALLOWED, 0, OTHER):
        ask(agent, real_program, uid)
    lines = [json.loads(line) for line in (agent.home.folder / "audit.log").read_text().splitlines()]
    assert [(line["profile"], line["uid"]) for line in lines] == [("web", ALLOWED), ("web", 0)]
    assert all(line["pid"] for line in lines)


def test_other_users_are_refused_and_logged(agent: AgentProcess, real_program: Path) -> None:
    done = ask(agent, real_program, OTHER)
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr == f"hwsigner: profile 'web' is not for user {OTHER}. See allow-users in hwsigner help agent\n"
    status, err = agent.stop()
    assert (status, err) == (0, f"hwsigner: profile 'web': user {OTHER} was refused\n")


@pytest.mark.parametrize("agent", [["unshare", "--user", "--map-root-user"]], indirect=True)
def test_agent_in_a_user_namespace_refuses_the_users_that_it_cannot_tell_apart(
    agent: AgentProcess, real_program: Path
) -> None:
    assert ask(agent, real_program, 0).returncode == 0
    for uid in (ALLOWED, OTHER):
        done = ask(agent, real_program, uid)
        assert (done.returncode, done.stdout) == (7, ""), done
        assert done.stderr.startswith("hwsigner: profile 'web' is not for user -1"), done
