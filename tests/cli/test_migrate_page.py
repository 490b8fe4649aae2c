"""docs/how-to/migrate.md: the flags of its table exist, and its set-ups are moved as it shows."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.utils import InstanceMetadataFetcher
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, load_pem_private_key, pkcs12
from cryptography.x509 import load_pem_x509_certificate

import certs
from emulators import InProcessSoftHSM
from hwsigner._cli import command_parser
from pages import ROOT, block, run_shell, shell_blocks
from ports import reserve_port
from scene import PROGRAM, Scene

PAGE = "docs/how-to/migrate.md"
ANCHOR = "arn:aws:rolesanywhere:eu-west-1:123456789012:trust-anchor/3f6c1a52-9d7e-4c1b-8a90-0f4b7d2c6e11"
ROLE = "arn:aws:iam::123456789012:role/web"
ARNS = {"trust-anchor": ANCHOR, "profile": ANCHOR.replace("trust-anchor", "profile"), "role": ROLE}
BIN = Path(sys.executable).parent
# Each set-up's lines before and after.
SETUPS = {
    "serve": (
        block(PAGE, "ini", "### serve as a unit", "After `hwsigner"),
        block(PAGE, "ini", "After `hwsigner migrate", "### update in cron"),
    ),
    "update": (
        block(PAGE, "text", "### update in cron", "After:"),
        block(PAGE, "text", "After:", "Without `--once`"),
    ),
    "pkcs12": (
        block(PAGE, "ini", "### credential_process with PKCS #12", "Its line becomes:"),
        block(PAGE, "ini", "Its line becomes:", "The password is now"),
    ),
    "selector": (
        block(PAGE, "ini", "### A token with cert-selector", "The line becomes:"),
        block(PAGE, "ini", "The line becomes:", "### EKS Hybrid"),
    ),
}


class Home:
    """A home folder, and the environment of commands there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / ".aws" / "config"
        self.config.parent.mkdir(parents=True)
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "XDG_"))},
            "HOME": str(folder),
            "HWSIGNER_AGENT": "none",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def migrate(self, path: Path) -> str:
        """Migrate a file, and return the line of hwsigner that takes the old one's place."""
        command = [str(BIN / "hwsigner"), "migrate", "--yes", str(path)]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        [line] = re.findall(rf"^  (?:credential_process = )?({re.escape(str(BIN))}/.*)$", done.stdout, re.MULTILINE)
        assert isinstance(line, str)
        return line

    def run(self, line: str, **environ: str) -> str:
        """Run a command line as the SDKs and cron do, and return what it prints."""
        done = subprocess.run(
            shlex.split(line), env={**self.environ, **environ}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def with_arns(text: str, arns: dict[str, str]) -> str:
    for kind, arn in arns.items():
        text = text.replace(f"--{kind}-arn ARN", f"--{kind}-arn {arn}")
    return text


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
def test_setup_becomes_what_the_page_shows(name: str, home: Home) -> None:
    before, after = (text.replace("hwsigner-credentials", PROGRAM) for text in SETUPS[name])
    home.config.write_text(with_arns(before, ARNS))
    line = home.migrate(home.config)
    shown = next(text for text in after.splitlines() if "/usr/bin/hwsigner" in text)
    assert shown.endswith(line.replace(str(BIN), "/usr/bin"))
    assert name in ("serve", "update") or home.config.read_text() == after.replace("/usr/bin", str(BIN))


def test_commands_and_flags_of_the_tables_exist() -> None:
    text = (ROOT / PAGE).read_text().partition("## hwsigner migrate")[0]
    rows = re.findall(r"^\| (`.*?) \| (?:the same|ignored) \|", text, re.MULTILINE)
    names = [re.findall(r"`([^`]+)`", row) for row in rows]
    flags = {f"--{flag.name}" for flag in command_parser("credential-process")[1].flags}
    for row in names:
        command = next((name for name in row if not name.startswith("-")), "credential-process")
        known = flags | {f"--{flag.name}" for flag in command_parser(command)[1].flags}
        assert [name for name in row if name.startswith("-") and name not in known] == []
    assert len(names) > 20


@pytest.fixture
def scene_home(home: Home, scene: Scene) -> Home:
    """A home whose config file has the key and certificate of a scene, and the page's commands to migrate."""
    home.environ["AWS_ENDPOINT_URL_ROLESANYWHERE"] = scene.emulator.url
    return home


def of_scene(text: str, scene: Scene) -> str:
    """Return a set-up's lines with the files and ARNs of a scene, and hwsigner under the other program's name."""
    emulator = scene.emulator
    arns = {"trust-anchor": emulator.trust_anchor_arn, "profile": emulator.profile_arn, "role": emulator.role_arn}
    program = scene.folder / "aws_signing_helper"
    if not program.exists():
        program.write_text(f'#!/bin/sh\nexec {BIN}/hwsigner "$@"\n')
        program.chmod(0o755)
    text = text.replace("/etc/pki/web.pem", str(scene.leaf)).replace("/etc/pki/web.key", str(scene.key))
    return with_arns(text.replace("/usr/local/bin/aws_signing_helper", str(program)), arns)


def command_in(text: str) -> str:
    """Return the command of a set-up's lines."""
    return next(
        re.sub(r"^\S+ = |^ExecStart=|^(?:\S+ ){5}", "", line) for line in text.splitlines() if "_helper" in line
    )


@pytest.mark.slow
def test_unit_s_lines_both_serve_credentials(scene_home: Home, scene: Scene) -> None:
    text = of_scene(SETUPS["serve"][0], scene).replace("--port 9911", f"--port {reserve_port()}")
    path = scene.folder / "aws.service"
    path.write_text(text)
    for line in (command_in(text), scene_home.migrate(path)):
        with subprocess.Popen(shlex.split(line), env=scene_home.environ, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            lines = iter(process.stderr.readline, "")
            url = next(found[1] for line in lines if (found := re.search(r"(http://127\.0\.0\.1:\d+/)$", line)))
            fetched = InstanceMetadataFetcher(base_url=url, timeout=20).retrieve_iam_role_credentials()
            process.terminate()
            assert fetched["access_key"].startswith("ASIA")


@pytest.mark.slow
def test_cron_s_lines_both_write_their_section(scene_home: Home, scene: Scene) -> None:
    text = of_scene(SETUPS["update"][0], scene)
    path = scene.folder / "crontab"
    path.write_text(text)
    for number, line in enumerate((command_in(text), scene_home.migrate(path))):
        keys = scene.folder / str(number) / "credentials"
        scene_home.run(line, AWS_SHARED_CREDENTIALS_FILE=str(keys))
        assert keys.read_text().startswith("[app]\n")


@pytest.mark.slow
def test_lines_with_pkcs12_both_print_credentials(scene_home: Home, scene: Scene) -> None:
    certificate = load_pem_x509_certificate(scene.leaf.read_bytes())
    key: Any = load_pem_private_key(scene.key.read_bytes(), None)
    data = pkcs12.serialize_key_and_certificates(b"web", key, certificate, None, BestAvailableEncryption(b"secret"))
    text = of_scene(SETUPS["pkcs12"][0], scene).replace("/etc/pki/web.p12", str(scene.write("web.p12", data)))
    scene_home.config.write_text(text)
    for line in (command_in(text), scene_home.migrate(scene_home.config)):
        assert json.loads(scene_home.run(line))["Version"] == 1


@pytest.fixture
def token(softhsm: InProcessSoftHSM, ca: certs.Authority) -> InProcessSoftHSM:
    softhsm.generate("web", b"\x01", "EC:prime256v1")
    leaf = certs.issue(ca, softhsm.public_key(b"\x01"), certs.Shape("web 1"))
    softhsm.write_certificate(leaf.public_bytes(Encoding.DER), "web", b"\x01")
    softhsm.reload()
    return softhsm


@pytest.mark.slow
def test_lines_with_a_selector_both_print_credentials(scene_home: Home, scene: Scene, token: InProcessSoftHSM) -> None:
    text = of_scene(SETUPS["selector"][0], scene).replace("/usr/lib/softhsm/libsofthsm2.so", token.module)
    text = text.replace("CN=web 1", "CN=web 1,OU=devops,O=Example,C=DE")
    text = text.replace("CN=Example CA", "CN=Example CA,OU=devops,O=Example,C=DE")
    scene_home.config.write_text(text)
    environ = {**token.env, "HWSIGNER_PIN": "1234"}
    for line in (command_in(text), scene_home.migrate(scene_home.config)):
        assert json.loads(scene_home.run(line, **environ))["Version"] == 1


def test_copy_is_made_and_migrated_with_the_commands_of_the_page(home: Home) -> None:
    home.config.write_text(with_arns(SETUPS["pkcs12"][0], ARNS))
    before = home.config.read_text()
    script = shell_blocks(PAGE, "## hwsigner migrate", "## Five set-ups").replace("migrate\n", "migrate --yes\n")
    run_shell(script, home.folder, {"HOME": str(home.folder)})
    assert f"{PROGRAM} --profile web" in home.config.read_text()
    assert home.config.with_name("config.before").read_text() == before
