"""The scripts of docs/how-to/build-agents.md run as they are written, in an environment like a job's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import certs
import judges
from agent.homes import Home
from agent.processes import AGENT, agent_process
from backends.pkcs11.tokens import remove_tokens
from emulators import InProcessSoftHSM
from pages import ROOT, block, job_scripts, shell_blocks
from scene import Scene
from softhsm.tpm import SoftTPM

PAGE = "docs/how-to/build-agents.md"
BIN = Path(sys.executable).parent
CA = """
openssl x509 -req -in runner.csr -CA ca.pem -CAkey ca.key -copy_extensions copy -out runner.pem 2>/dev/null
"""
# What only root may do, with a user that is not here.
STUBS = "chown() { :; }\nusermod() { :; }\n"
GITLAB = ("bash", "-eo", "pipefail", "-c")
GITHUB = ("bash", "-e", "-c")

pytestmark = pytest.mark.slow


class Runner:
    """A runner: a folder in place of /etc/pki and the job's own, and an environment without a home."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene = scene
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "ca.pem").write_bytes(scene.ca.pem)
        certs.write_key(folder / "ca.key", scene.ca.key)
        emulator = scene.emulator
        self.environ = {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/proc/none",
            "AWS_ENDPOINT_URL": emulator.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": "eu-central-1",
            "TRUST_ANCHOR_ARN": emulator.trust_anchor_arn,
            "PROFILE_ARN": emulator.profile_arn,
            "ROLE_ARN": emulator.role_arn,
        }

    def run(self, shell: tuple[str, ...], script: str, environ: Mapping[str, str] = {}) -> str:
        """Run a script, which must succeed, and return what it printed."""
        script = script.replace("/etc/pki", str(self.folder)).replace("/opt/hwsigner/bin", str(BIN))
        env = {**self.environ, **environ}
        done = subprocess.run([*shell, script], cwd=self.folder, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        assert done.stderr == "", script
        return done.stdout

    def set_up(self, script: str, **environ: str) -> None:
        """Run what the page does once on the runner; a CA issues the certificate."""
        script = re.sub(r"^hwsigner install-certificate", f"{CA}\\g<0>", script, flags=re.MULTILINE)
        self.run(GITLAB, STUBS + script, {"XDG_STATE_HOME": str(self.folder / "root"), **environ})

    def is_role(self, output: str) -> bool:
        """Return whether a job printed the identity of the role."""
        role = self.scene.emulator.role_arn.rpartition("/")[2]
        return f":assumed-role/{role}/" in json.loads(output)["Arn"]


@pytest.fixture
def runner(scene: Scene, tmp_path: Path) -> Runner:
    return Runner(scene, tmp_path / "runner")


@pytest.fixture
def key(runner: Runner) -> Runner:
    """A runner with a key and its certificate in files."""
    shutil.copy(runner.scene.leaf, runner.folder / "runner.pem")
    shutil.copy(runner.scene.key, runner.folder / "runner.key")
    return runner


@judges.needs_aws_cli
def test_gitlab_job_has_credentials_by_the_tpm(runner: Runner, swtpm: SoftTPM) -> None:
    section = "## A GitLab runner with a TPM", "## A GitHub runner with a token"
    runner.set_up(
        shell_blocks(PAGE, "## A GitLab runner with a TPM", "## A GitHub runner with a token"), TPM2_TCTI=swtpm.tcti
    )
    (script,) = job_scripts(PAGE, *section)
    assert runner.is_role(runner.run(GITLAB, script, {"TPM2_TCTI": swtpm.tcti}))


@judges.needs_aws_cli
def test_github_steps_have_credentials_by_the_token(runner: Runner, softhsm: InProcessSoftHSM, tmp_path: Path) -> None:
    section = "## A GitHub runner with a token", "## A docker executor"
    pin = tmp_path / "credentials" / "ci-token"
    pin.parent.mkdir()
    pin.write_text("1234")
    pin.chmod(0o400)
    softhsm.add_token("ci")
    runner.set_up(
        shell_blocks(PAGE, "## A GitHub runner with a token", "## A docker executor"),
        **softhsm.env,
        HWSIGNER_PIN="1234",
    )
    first, second = job_scripts(PAGE, *section)
    for name in ("TRUST_ANCHOR_ARN", "PROFILE_ARN", "ROLE_ARN"):
        first = first.replace(f"${{{{ vars.{name} }}}}", runner.environ[name])
    (uri,) = re.findall(r"^ +KEY: (\S+)$", (ROOT / PAGE).read_text(), re.MULTILINE)
    environ = {"KEY": uri, "CREDENTIALS_DIRECTORY": str(pin.parent), "XDG_RUNTIME_DIR": str(tmp_path), **softhsm.env}
    environ |= {"RUNNER_TEMP": str(tmp_path), "GITHUB_ENV": str(tmp_path / "github-env")}
    runner.run(GITHUB, first, environ)
    exported = dict(line.split("=", 1) for line in (tmp_path / "github-env").read_text().splitlines())
    assert runner.is_role(runner.run(GITHUB, second, {**environ, **exported}))
    remove_tokens(softhsm, "ci")


def test_jobs_have_credentials_by_a_key_in_a_variable(key: Runner) -> None:
    section = "## A key in a variable", "If another program prints the key"
    encoded = key.run(GITLAB, shell_blocks(PAGE, "## A key in a variable", "If another program prints the key"))
    assert "\n" not in encoded
    gitlab, github = job_scripts(PAGE, *section)
    for shell, script in ((GITLAB, gitlab), (GITHUB, github)):
        assert key.is_role(key.run(shell, script, {"RUNNER_KEY": encoded}))


def test_variable_of_type_file_is_a_path(key: Runner) -> None:
    script = job_scripts(PAGE, "## A key in a variable", "On GitHub, give")[0]
    (key.folder / "variable").touch(0o600)
    (key.folder / "variable").write_bytes((key.folder / "runner.pem").read_bytes() + key.scene.key.read_bytes())
    script = script.replace("env:RUNNER_KEY", '"$RUNNER_KEY"').partition("aws sts")[0] + "echo ran"
    assert key.run(GITLAB, script, {"RUNNER_KEY": str(key.folder / "variable")}) == "ran\n"


def test_jobs_have_credentials_by_a_key_from_another_program(key: Runner) -> None:
    script = shell_blocks(PAGE, "If another program prints the key", "### env:, fd: and -")
    commands = re.split(r"(?<=central-1)\n", script.strip())
    assert len(commands) == 2
    for command in commands:
        assert key.is_role(key.run(GITLAB, command))


MOUNT = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$1" /etc
shift
exec "$@"
"""
# What the runner does for a job: it mounts the folder read-only, and the program, in a namespace of the job.
CONTAINER = """
set -e
mount --bind /run/hwsigner /run/hwsigner
mount -o remount,bind,ro /run/hwsigner
touch "$1/mounted"
mount -t tmpfs tmpfs /usr/local/bin
cp "$2" /usr/local/bin/hwsigner-credentials
shift 2
exec "$@"
"""


@pytest.mark.root
class TestDockerExecutor:
    @pytest.fixture
    def home(self, scene: Scene, short_folder: Path) -> Home:
        home = Home(short_folder, scene.ca, scene.emulator)
        home.write_profiles(web={"allow-users": ["1000"]})
        return home

    @pytest.fixture
    def program(self, tmp_path: Path) -> Path:
        path = tmp_path / "hwsigner-credentials"
        source = ROOT / "native" / "credentials.c"
        subprocess.run(["gcc", "-static", "-O1", source, "-o", path], check=True)
        return path

    def test_job_has_credentials_by_the_agent_of_the_host(self, runner: Runner, home: Home, program: Path) -> None:
        section = "## A docker executor", "## A key in a variable"
        etc = home.folder / "etc"
        (etc / "hwsigner").mkdir(parents=True)
        for name in ("passwd", "group", "nsswitch.conf"):
            shutil.copy(f"/etc/{name}", etc)
        shutil.move(home.folder / "config" / "hwsigner" / "config.toml", etc / "hwsigner")
        (runner.folder / "ci").mkdir()
        (runner.folder / "ci" / "aws-config").write_text(
            block(PAGE, "ini", "## A docker executor", "## A key in a variable")
        )
        (script,) = job_scripts(PAGE, *section)
        environ = {"AWS_CONFIG_FILE": str(runner.folder / "ci" / "aws-config"), "HOME": "/nonexistent"}
        command = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", str(etc), *AGENT, "--system"]
        with agent_process(home, command) as agent:
            inside = ["nsenter", f"--target={agent.process.pid}", "--mount", "unshare", "--mount"]
            container = [*inside, "sh", "-c", CONTAINER, "sh", str(runner.folder), str(program)]
            assert runner.is_role(runner.run((*container, *GITLAB), script, environ))
