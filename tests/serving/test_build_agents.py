"""`hwsigner exec` and `serve` on build agents: no config file, no home folder, and a key that the job brings."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from judges import needs_proc
from scene import Outcome
from serving.stage import PROGRAM, Clock, Stage

pytestmark = pytest.mark.process

FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
PRINT_ENVIRONMENT = (sys.executable, "-I", "-c", "import json, os; print(json.dumps(dict(os.environ)))")
# What a command finds that looks for the key everywhere: its environment, open files and standard input, and those of
# its parent, hwsigner.
SEARCH = """if True:
    import os, sys
    found = [sys.stdin.read()]
    for number in os.listdir("/proc/self/fd"):
        found.append(os.readlink(f"/proc/self/fd/{number}") if os.path.exists(f"/proc/self/fd/{number}") else "")
    found.append(open("/proc/self/environ").read())
    try:
        found.append(open(f"/proc/{os.getppid()}/environ").read())
    except PermissionError:
        pass
    print("\\n".join(found))
"""


@pytest.fixture
def bare(stage: Stage) -> dict[str, str]:
    """The environment of a job whose home folder and runtime folder can't even be made."""
    (stage.folder / "home" / ".config" / "hwsigner" / "config.toml").unlink()
    return {"PATH": "/usr/bin:/bin", "HOME": "/proc/none", "LANG": "C.UTF-8"}


def flags(stage: Stage, **instead: str | None) -> list[str]:
    """Return all the flags of a session; None drops one."""
    values = {**stage.values(), **{name.replace("_", "-"): value for name, value in instead.items()}}
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def both(stage: Stage) -> str:
    """Return certificate and key in one PEM."""
    return stage.leaf.read_text() + stage.key.read_text()


@pytest.mark.slow
def test_exec_needs_no_config_file_and_no_home(stage: Stage, bare: dict[str, str]) -> None:
    done = stage.run("exec", *flags(stage), "--", *PRINT_ENVIRONMENT, environ=bare)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[FULL_URI].endswith(f"/credentials/{stage.role}")
    assert stage.sessions == 1


def test_relative_home_is_not_taken_for_a_folder_in_the_current_one(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / ".config" / "hwsigner").mkdir(parents=True)
    (tmp_path / ".config" / "hwsigner" / "config.toml").write_text("nonsense")
    done = subprocess.run(
        [PROGRAM, "exec", *flags(stage), "--", "true"],
        env={"PATH": "/usr/bin:/bin", "HOME": ".", "LANG": "C.UTF-8"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["PEM", "base64"])
@needs_proc
def test_command_does_not_inherit_the_variable_with_the_key(stage: Stage, bare: dict[str, str], form: str) -> None:
    value = both(stage) if form == "PEM" else base64.b64encode(both(stage).encode()).decode()
    arguments = flags(stage, certificate="env:WEB", private_key=None)
    command = (sys.executable, "-I", "-c", SEARCH)
    with subprocess.Popen(
        [PROGRAM, "exec", *arguments, "--", *command],
        env={**bare, "WEB": value},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert FULL_URI in output
    assert not re.search(r"WEB=[^\0]", output)
    assert value[40:80] not in output


@pytest.mark.slow
@pytest.mark.parametrize("place", ["fd:7", "-"])
@needs_proc
def test_command_does_not_inherit_the_open_file_with_the_key(stage: Stage, bare: dict[str, str], place: str) -> None:
    (stage.folder / "both.pem").write_text(both(stage))
    redirection = f"{'7' if place == 'fd:7' else ''}<{stage.folder}/both.pem"
    shell = ("/bin/sh", "-c", f'exec "$@" {redirection}', "sh")
    command = (sys.executable, "-I", "-c", SEARCH)
    arguments = flags(stage, certificate=place, private_key=place)
    done = stage.run("exec", *arguments, "--", *command, wrapper=shell, environ=bare)
    assert (done.returncode, done.stderr) == (0, "")
    assert FULL_URI in done.stdout
    assert "both.pem" not in done.stdout
    assert "PRIVATE KEY" not in done.stdout


@needs_proc
def test_command_has_standard_input_after_the_key_came_by_it(stage: Stage, bare: dict[str, str]) -> None:
    shell = ("/bin/sh", "-c", f'cat {stage.leaf} {stage.key} | "$@"', "sh")
    arguments = flags(stage, certificate="-", private_key=None)
    done = stage.run("exec", *arguments, "--", "readlink", "/proc/self/fd/0", wrapper=shell, environ=bare)
    assert (done.returncode, done.stdout) == (0, "/dev/null\n"), done.stderr


def test_key_that_can_t_be_read_again_is_used_for_later_sessions(
    stage: Stage, bare: dict[str, str], clock: Clock
) -> None:
    code = f"""if True:
        import os, sys, urllib.request
        request = urllib.request.Request(
            os.environ["{FULL_URI}"], headers={{"Authorization": os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]}}
        )
        for line in sys.stdin:
            print(urllib.request.urlopen(request).status, flush=True)
    """
    arguments = (*flags(stage, certificate="env:WEB", private_key=None), "--", sys.executable, "-I", "-c", code)
    bare["WEB"] = both(stage)
    with stage.start("exec", *arguments, wrapper=clock.wrapper, stdin=subprocess.PIPE, **bare) as running:
        assert running.process.stdin
        assert running.process.stdout
        for sessions in (1, 2):
            running.process.stdin.write("\n")
            running.process.stdin.flush()
            assert running.process.stdout.readline() == "200\n"
            assert stage.sessions == sessions
            clock.advance(4000)  # The session of an hour has expired.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--", "true"), "no profile is named, and no flags are given"),
        (("--strict", "--", "true"), "no profile is named, and no flags are given"),
        (("--role-arn", "x", "--"), "no command was given"),
        (("--role-arn", "x", "web", "--", "true"), "--role-arn can't be combined with a profile's name"),
        (("web", "aws", "--region", "x"), "--region can't be combined with a profile's name"),
        (("--certificate", "x", "--", "true"), "--trust-anchor-arn"),
    ],
)
def test_flags_of_exec_that_do_not_fit_are_usage_errors(
    call: Callable[..., Outcome], arguments: tuple[str, ...], message: str
) -> None:
    done = call("exec", *arguments)
    assert done.status == 2
    assert message in done.err


@pytest.mark.slow
def test_hwsigner_profile_counts_unless_exec_names_another(stage: Stage) -> None:
    for arguments, variable in ((["web"], "nope"), ([], "web")):
        done = stage.run("exec", *arguments, "--", "true", environ=stage.environ(HWSIGNER_PROFILE=variable))
        assert (done.returncode, done.stderr) == (0, "")


def test_flags_of_exec_may_name_a_profile_and_change_it(stage: Stage) -> None:
    done = stage.run("exec", "--profile=web", "--session-duration=900", "--", "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(stage.service.requests[-1].request.body)["durationSeconds"] == 900


def test_serve_needs_no_config_file_and_no_home(stage: Stage, bare: dict[str, str], tmp_path: Path) -> None:
    arguments = ("--port=0", "--imds=false", *flags(stage, certificate="env:WEB", private_key=None))
    with stage.start("serve", *arguments, HOME=bare["HOME"], WEB=both(stage), XDG_RUNTIME_DIR="") as running:
        token = Path(running.variables()["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])
        assert token == Path(f"/tmp/hwsigner-{os.geteuid()}/serve/{stage.role}.token")
        assert (token.stat().st_mode & 0o777, token.parents[1].stat().st_mode & 0o777) == (0o600, 0o700)
    token.unlink()


@pytest.mark.slow
def test_profile_may_name_a_variable_and_no_open_file(stage: Stage) -> None:
    config = stage.folder / "home" / ".config" / "hwsigner" / "config.toml"
    config.write_text(config.read_text().replace(str(stage.leaf), "env:WEB").replace(str(stage.key), "env:WEB"))
    done = stage.run("exec", "web", "--", "true", environ=stage.environ(WEB=both(stage)))
    assert (done.returncode, done.stderr) == (0, "")
    config.write_text(config.read_text().replace("env:WEB", "fd:7"))
    done = stage.run("exec", "web", "--", "true")
    assert done.returncode == 2
    assert "[profile.web]: --certificate is 'fd:7', which a profile can't name" in done.stderr
    for place in ("-", "fd:0", "-?pin-source=file:/x"):
        done = stage.run("profile", "add", "other", f"--private-key={place}")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
