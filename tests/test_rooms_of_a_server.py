"""A server works without the rooms that administrators use: they are taken out of a copy of the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from cryptography import x509

import certs
import hwsigner
from agent.homes import Home
from agent.processes import agent_process
from hwsigner.emulator import Emulator

pytestmark = pytest.mark.slow

PACKAGE = Path(hwsigner.__file__).parent
TAKEN_AWAY = ("emulator", "_control_plane", "trust_policy", "enrolment/registrar")
# Without the finder of an editable installation, which would find the package itself.
PROGRAM = """if True:
    import sys
    sys.path.insert(0, sys.argv[1])
    sys.meta_path = [one for one in sys.meta_path if one.__module__.startswith(("_frozen", "importlib"))]
    sys.argv[:2] = ["hwsigner"]
    import hwsigner
    from hwsigner._cli import entry_point
    assert hwsigner.__file__.startswith(sys.path[0]), hwsigner.__file__
    sys.exit(entry_point())
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of a command that runs hwsigner without those rooms."""
    copy = tmp_path_factory.mktemp("copy") / "hwsigner"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for room in TAKEN_AWAY:
        shutil.rmtree(copy / room)
    return [sys.executable, "-P", "-c", PROGRAM, str(copy.parent)]


@pytest.fixture
def home(ca: certs.Authority, shared_emulator: Emulator, tmp_path: Path) -> Home:
    """A home with a profile whose certificates openssl issues."""
    found = Home(tmp_path, ca, shared_emulator)
    certs.write_key(tmp_path / "ca.key", ca.key)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    # They end a day after the one in use, which may be of the same second.
    flags = f"-CA {tmp_path / 'ca.pem'} -CAkey {tmp_path / 'ca.key'} -copy_extensions copy -days 31"
    found.write_profiles(web={"issuer-command": f"openssl x509 -req {flags}"})
    return found


def run(program: Sequence[str], home: Home, *arguments: str) -> str:
    ran = subprocess.run([*program, *arguments], env=home.environ, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def is_credentials(text: str) -> bool:
    return str(json.loads(text)["AccessKeyId"]).startswith("ASIA")


def test_client_gets_credentials(program: list[str], home: Home) -> None:
    assert is_credentials(run(program, home, "credential-process", "--profile", "web"))


def test_agent_gives_credentials(program: list[str], home: Home) -> None:
    home.emulator.requests.clear()
    with agent_process(home, [*program, "agent"]):
        given = [run(program, home, "credential-process", "--profile", "web") for _ in "12"]
    assert is_credentials(given[0])
    assert given[0] == given[1]
    assert len(home.emulator.requests) == 1


def test_serve_gives_credentials(program: list[str], home: Home) -> None:
    words = [*program, "serve", "--profile", "web", "--port", "0"]
    with subprocess.Popen(words, env=home.environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            variables: dict[str, str] = {}
            while "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" not in variables:
                assert process.stderr
                name, _, value = process.stderr.readline().strip().removeprefix("export ").partition("=")
                variables[name] = value
            token = Path(variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).read_text()
            request = Request(variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"], headers={"Authorization": token})
            with urlopen(request, timeout=60) as response:
                assert is_credentials(response.read().decode())
        finally:
            process.kill()


def test_certificate_is_renewed_by_a_command(program: list[str], home: Home) -> None:
    leaf = home.folder / "web.pem"
    old = x509.load_pem_x509_certificate(leaf.read_bytes())
    assert json.loads(run(program, home, "renew", "web", "--json"))["renewed"]
    [path] = [line.split('"')[1] for line in _config(home).splitlines() if line.startswith("certificate")]
    assert x509.load_pem_x509_certificate(Path(path).read_bytes()).serial_number != old.serial_number


def _config(home: Home) -> str:
    return Path(home.environ["XDG_CONFIG_HOME"], "hwsigner", "config.toml").read_text()
