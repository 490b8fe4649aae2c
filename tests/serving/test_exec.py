"""`hwsigner exec`: the command's credentials, signals, terminal and exit status."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.configloader import load_config

from hwsigner._aws.config_file import find_default_credentials, read_config
from hwsigner._cli.child import run_program
from hwsigner._cli.exec import child_environment
from judges import needs_proc
from scene import Outcome
from serving.stage import PROGRAM, Clock, Stage
from terminals import Terminal

pytestmark = pytest.mark.process

FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN = "AWS_CONTAINER_AUTHORIZATION_TOKEN"

PYTHON = (sys.executable, "-I", "-c")
PRINT_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.mark.slow
def test_aws_cli_gets_the_profile_s_credentials(stage: Stage) -> None:
    command = ("/usr/bin/aws", "sts", "get-caller-identity", "--endpoint-url", stage.service.url)
    environ = stage.environ(AWS_DEFAULT_REGION="us-east-1", AWS_ACCESS_KEY_ID="AKIAOTHER", AWS_SECRET_ACCESS_KEY="x")
    done = stage.run("exec", "web", "--", *command, environ={**environ, "AWS_PROFILE": "nope"})
    assert (done.returncode, done.stderr) == (0, "")
    assert f":assumed-role/{stage.role}/" in json.loads(done.stdout)["Arn"]
    assert stage.sessions == 1


def test_endpoint_is_on_loopback_and_ends_with_the_command(stage: Stage) -> None:
    done = stage.run("exec", "web", "--", *PYTHON, PRINT_ENVIRONMENT)
    environ = json.loads(done.stdout)
    scheme, _, address, *path = environ[FULL_URI].split("/")
    assert (scheme, path) == ("http:", ["credentials", "web"])
    host, _, port = address.partition(":")
    assert host == "127.0.0.1"
    assert len(environ[TOKEN]) == 43
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    assert not list(stage.folder.rglob("*.token"))


def test_variables_that_sdks_would_prefer_are_removed_and_others_kept() -> None:
    others = {"PATH": "/bin", "AWS_REGION": "eu-central-1", "AWS_CONFIG_FILE": "/c", "AWS_ENDPOINT_URL": "http://x"}
    winning = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    ]
    variables = {FULL_URI: "http://u", TOKEN: "t"}
    found = child_environment({**others, **dict.fromkeys(winning, "x"), TOKEN: "x"}, variables)
    assert found == {**others, **variables}


@pytest.mark.slow
def test_server_has_ended_before_the_interpreter_does(call: Callable[..., Outcome]) -> None:
    """A thread that runs an event loop while the interpreter ends may crash."""
    assert call("exec", "web", "--", "true").status == 0
    assert "hwsigner-server" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("is_named", [True, False])
def test_session_that_is_shorter_than_asked_is_said_once(
    stage: Stage, call: Callable[..., Outcome], *, is_named: bool
) -> None:
    flags = [*stage.flags(), "--session-duration=43200"]
    if is_named:
        assert call("profile", "add", "long", *flags).status == 0
        flags = ["long"]
    outcome = call("exec", *flags, "--", "true")
    assert (outcome.status, outcome.err.count("lasts 60 minutes, not 720 minutes")) == (0, 1)
    assert call("exec", "web", "--", "true").err == ""


@pytest.mark.parametrize("status", [0, 255])
def test_exit_status_is_the_command_s(stage: Stage, status: int) -> None:
    assert stage.run("exec", "web", "--", "sh", "-c", f"exit {status}").returncode == status


def test_exit_status_is_128_and_the_signal_that_ended_the_command(stage: Stage) -> None:
    assert stage.run("exec", "web", "--", "sh", "-c", "kill -KILL $$").returncode == 137


@pytest.mark.parametrize(("command", "status"), [("no-such-command", 127), ("/", 126), ("/etc/passwd", 126)])
def test_command_that_can_t_be_run_exits_with_126_or_127(stage: Stage, command: str, status: int) -> None:
    done = stage.run("exec", "web", "--", command)
    assert done.returncode == status
    assert done.stderr.startswith(f"hwsigner: can't run {command}: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
)
def test_signal_is_passed_on_to_the_command(stage: Stage, number: int) -> None:
    code = f"""if True:
        import signal, sys
        signal.pthread_sigmask(signal.SIG_BLOCK, [{number}])
        print("ready", flush=True)
        print(signal.sigwait([{number}]), flush=True)
        sys.exit(3)
    """
    with stage.start("exec", "web", "--", *PYTHON, code) as running:
        assert running.process.stdout
        assert running.process.stdout.readline() == "ready\n"
        running.process.send_signal(number)
        assert running.process.stdout.readline() == f"{int(number)}\n"
        assert running.wait() == 3


@pytest.mark.slow
def test_ctrl_c_reaches_the_command_once(stage: Stage, tmp_path: Path) -> None:
    code = """if True:
        import os, select, signal
        count = 0
        def handle(number, frame):
            global count
            count += 1
            os.write(1, b"got it\\n")
        signal.signal(signal.SIGINT, handle)
        os.write(1, b"ready\\n")
        while not select.select([0], [], [], 0.05)[0]:
            pass  # A signal that comes just before a read would wait for its end.
        os.write(1, f"count {count}\\n".encode())
    """
    terminal = Terminal(tmp_path)
    try:
        with terminal.start(str(PROGRAM), "exec", "web", "--", *PYTHON, code, **stage.environ()) as process:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            terminal.type(b"\x03")
            assert process.stdout.readline() == b"got it\n"
            process.stdin.write(b"go on\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"count 1\n"
            assert process.wait(60) == 0
    finally:
        terminal.close()


def signals(status: str) -> dict[str, int]:
    """Return the sets of signals in lines of /proc/PID/status, without 32 and 33.

    Those two are glibc's own. A process that glibc 2.36's posix_spawn starts, as make does, ignores them.
    """
    sets = (line.split(":") for line in status.splitlines())
    return {name: int(bits, 16) & ~(0b11 << 31) for name, bits in sets}


@needs_proc
def test_command_has_no_signal_blocked_or_ignored(stage: Stage) -> None:
    done = stage.run("exec", "web", "--", "grep", "^Sig[BI]", "/proc/self/status")
    assert signals(done.stdout) == {"SigBlk": 0, "SigIgn": 0}


LIST_DESCRIPTORS = ("sh", "-c", "ls -l /proc/$$/fd")
# Opens a file without O_CLOEXEC after hwsigner has started, as the libraries of TPMs and tokens may.
LEAKING = """if True:
    import os, sys
    from hwsigner._config import settings
    read_profile = settings.read_profile

    def read_and_open(*arguments):
        os.open("/etc/hostname", os.O_RDONLY)
        os.set_inheritable(os.open("/etc/passwd", os.O_RDONLY), True)
        return read_profile(*arguments)

    settings.read_profile = read_and_open
    from hwsigner._cli import main
    sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("redirection", ["", "<&-"])
@needs_proc
def test_command_inherits_what_exec_inherited_and_nothing_that_exec_opened(stage: Stage, redirection: str) -> None:
    shell = ("/bin/sh", "-c", f'exec "$@" 5</etc/group {redirection}', "sh")
    done = stage.run("exec", "web", "--", *LIST_DESCRIPTORS, wrapper=(*shell, sys.executable, "-c", LEAKING))
    assert done.returncode == 0, done.stderr
    found = dict(line.split()[-3::2] for line in done.stdout.splitlines()[1:])
    assert found.pop("5") == "/etc/group"
    assert found.keys() == ({"1", "2"} if redirection else {"0", "1", "2"})


def test_command_runs_under_a_low_limit_of_descriptors(stage: Stage) -> None:
    shell = ("/bin/sh", "-c", 'ulimit -n 100; exec "$@"', "sh")
    done = stage.run("exec", "web", "--", "sh", "-c", "ulimit -n", wrapper=shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, "100\n", "")


def test_command_is_not_run_without_credentials(stage: Stage) -> None:
    stage.key.write_text("nonsense")
    done = stage.run("exec", "web", "--", "touch", str(stage.folder / "touched"))
    assert done.returncode == 3
    assert not (stage.folder / "touched").exists()
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no command was given"),
        (("web",), "no command was given"),
        (("web", "--"), "no command was given"),
        (("nope", "--", "true"), "there is no profile 'nope'"),
        (("--what", "web", "--", "true"), "unknown flag --what. Write hwsigner exec NAME -- COMMAND, with the"),
        (("web", "aws", "--regio", "x"), "unknown flag --regio. Did you mean --region?"),
    ],
)
def test_invalid_arguments_exit_with_status_2(
    call: Callable[..., Outcome], arguments: tuple[str, ...], message: str
) -> None:
    done = call("exec", *arguments)
    assert done.status == 2
    assert message in done.err


def test_arguments_after_the_dashes_are_the_command_s(stage: Stage) -> None:
    done = stage.run("exec", "web", "--", "printf", "%s|", "--strict", "--", "-x", "")
    assert done.stdout == "--strict|--|-x||"


def test_default_profile_with_credentials_is_a_warning(stage: Stage) -> None:
    config = stage.folder / "config"
    config.write_text("[default]\nregion = us-east-1\ncredential_process = /bin/false\n")
    environ = stage.environ(AWS_CONFIG_FILE=str(config))
    done = stage.run("exec", "web", "--", "true", environ=environ)
    assert done.returncode == 0
    assert f"the credentials of credential_process in [default] of {config} to those of hwsigner" in done.stderr
    assert stage.run("exec", "--strict", "web", "--", "true", environ=environ).returncode == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[default]\naws_access_key_id = A\n", "aws_access_key_id"),
        ("[default]\nrole_arn=x\n[default]\nregion=y", "role_arn"),
        ("[default]\nregion = x\n[profile web]\ncredential_process = y\n", None),
        ("[web]\naws_access_key_id = A\n", None),
        ("[profile default]\naws_access_key_id = A\n", None),
        ("[DEFAULT]\naws_access_key_id = A\n[default]\nregion = x\n", "aws_access_key_id"),
        ("no ini", None),
        ("\x00\xff", None),
    ],
)
def test_credentials_of_a_default_profile_are_found(tmp_path: Path, text: str, found: str | None) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(text)
    told = find_default_credentials({"HOME": str(tmp_path)})
    assert told == (found and f"{found} in [default] of {tmp_path}/.aws/credentials")


@pytest.mark.parametrize("section", ["profile default", 'profile "default"', "profile  'default'", "default"])
@pytest.mark.parametrize("before", ["", "[default]\nregion = x\n", "[profile defaults]\nrole_arn = x\n"])
def test_default_profile_of_config_files_is_found_as_botocore_finds_it(
    tmp_path: Path, before: str, section: str
) -> None:
    config = tmp_path / "config"
    config.write_text(f"{before}[{section}]\nlogin_session = x\ncredential_process = /bin/x\n")
    environ = {"AWS_CONFIG_FILE": str(config), "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
    assert find_default_credentials(environ) == f"credential_process in [{section}] of {config}"
    if before != f"[{section}]\nregion = x\n":  # botocore takes no file with a section twice.
        assert load_config(str(config))["profiles"]["default"]["login_session"] == "x"


def test_variable_in_the_path_of_the_credentials_file_is_replaced_as_botocore_does(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("[default]\naws_access_key_id = A\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYS", str(tmp_path / "keys"))
        found = find_default_credentials({"AWS_SHARED_CREDENTIALS_FILE": "$KEYS", "AWS_CONFIG_FILE": "/nonexistent"})
    assert found == f"aws_access_key_id in [default] of {tmp_path}/keys"


def test_pipe_in_place_of_the_config_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config")
    assert find_default_credentials({"AWS_CONFIG_FILE": str(tmp_path / "config"), "HOME": str(tmp_path)}) is None


@pytest.mark.slow
def test_writer_of_a_pipe_in_place_of_the_credentials_file_still_waits_for_the_command(tmp_path: Path) -> None:
    pipe = tmp_path / "keys"
    os.mkfifo(pipe)
    with subprocess.Popen(["/bin/sh", "-c", f"printf keys > {pipe}"]) as writer:
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.5)
        environ = {"AWS_SHARED_CREDENTIALS_FILE": str(pipe), "AWS_CONFIG_FILE": str(pipe)}
        assert find_default_credentials(environ) is None
        assert read_config(environ) == {}
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.5)
        assert pipe.read_text() == "keys"
    assert writer.returncode == 0


def test_missing_home_folder_has_no_default_profile() -> None:
    assert find_default_credentials({"AWS_CONFIG_FILE": "~nobody-of-that-name/config", "HOME": "/nonexistent"}) is None


IGNORING = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"


@needs_proc
def test_exit_status_is_the_command_s_when_the_parent_ignores_sigchld(stage: Stage) -> None:
    command = ("sh", "-c", "grep ^SigIgn /proc/self/status; exit 3")
    with stage.start("exec", "web", "--", *command, wrapper=(*PYTHON, IGNORING)) as running:
        out, err = running.process.communicate(timeout=60)
    assert (running.process.returncode, signals(out), err) == (3, {"SigIgn": 0}, "")


def test_signal_handlers_and_mask_are_restored_after_the_command() -> None:
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert run_program(["true"], os.environ, lambda: None, inherited={0, 1, 2}) == 0
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    finally:
        signal.signal(signal.SIGCHLD, handler)


@pytest.mark.slow
def test_command_is_waited_for_when_a_signal_can_t_be_passed_on_or_another_thread_takes_it() -> None:
    code = """if True:
        import os, sys, threading, time
        from hwsigner._cli.child import run_program
        def kill(process, number):
            time.sleep(0.5)  # Meanwhile the other thread gets the next signal, and is told of the end.
            raise PermissionError(1, "Operation not permitted")
        os.kill = kill
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        command = "sleep 0.2; kill -USR1 $PPID; sleep 0.2; kill -USR1 $PPID; exit 5"
        print(run_program(["sh", "-c", command], os.environ, lambda: None, inherited={0, 1, 2}))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


@pytest.mark.slow
def test_sighup_of_a_closed_terminal_reaches_the_command_of_the_session_leader(stage: Stage, tmp_path: Path) -> None:
    code = """if True:
        import signal, sys
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        print("ready", flush=True)
        sys.exit(int(signal.sigwait([signal.SIGHUP])))
    """
    terminal = Terminal(tmp_path)
    try:
        process = terminal.start(str(PROGRAM), "exec", "web", "--", *PYTHON, code, **stage.environ())
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
    finally:
        terminal.close()
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == signal.SIGHUP


@pytest.mark.slow
def test_no_pin_is_asked_for_on_the_terminal_of_a_running_command(stage: Stage, clock: Clock, tmp_path: Path) -> None:
    stage.encrypt_key("first")
    code = """if True:
        import json, os, sys, urllib.error, urllib.request
        request = urllib.request.Request(
            os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
            headers={"Authorization": os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]},
        )
        def status():
            try:
                return urllib.request.urlopen(request).status
            except urllib.error.HTTPError as error:
                return json.load(error)["message"]
        print(status(), flush=True)
        sys.stdin.readline()
        print(status(), flush=True)
        print(open("/dev/tty").readline(), flush=True)
    """
    terminal = Terminal(tmp_path)
    try:
        process = terminal.start(*clock.wrapper, str(PROGRAM), "exec", "web", "--", *PYTHON, code, **stage.environ())
        terminal.shown_until(": ")
        terminal.type(b"first\n")
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"200\n"
        stage.encrypt_key("second")
        clock.advance(4000)  # The session of an hour has expired.
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert b"none was given" in process.stdout.readline()
        assert terminal.echoes()
        terminal.type(b"for the command\n")
        assert process.communicate(timeout=30)[0] == b"for the command\n\n"
    finally:
        terminal.close()
