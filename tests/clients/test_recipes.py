"""The files of docs/how-to/recipes run as they are: the playbook by Ansible, the image's script by bash."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import certs
from attestation.chips import Chip, chip, chips, vendors
from clients.machines import Machine, open_machine
from clients.test_terraform import parse
from enrolment.registrar.sites import Issuer, Site
from hwsigner.emulator import Emulator, World
from pages import ROOT
from softhsm.command import run as run_tool

__all__ = ["chip", "chips", "vendors"]

pytestmark = pytest.mark.timeout(900)  # A TPM library is compiled at the first run.

RECIPES = ROOT / "docs" / "how-to" / "recipes"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of hwsigner, without the extension."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    options = ["--wheel-dir", str(folder), "--config-settings=hwsigner.native=false", str(ROOT)]
    subprocess.run([*build, *options], check=True, timeout=300)
    [found] = folder.iterdir()
    return found


@pytest.fixture(scope="session")
def tpm_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of tpm2-pytss for this system, in place of a release's, which needs another system to be built."""
    folder = tmp_path_factory.mktemp("tpm2")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, f"--wheel-dir={folder}", f"tpm2-pytss=={version('tpm2-pytss')}"], check=True, timeout=600)
    [found] = folder.iterdir()
    return found


@pytest.fixture
def site(chip: Chip, ca: certs.Authority, tmp_path: Path) -> Site:
    """A registrar whose policy has no machine yet."""
    site = Site(tmp_path, chip.trust, Issuer(ca))
    site.allow()
    return site


@pytest.fixture
def service(ca: certs.Authority) -> Iterator[Emulator]:
    with Emulator(World.simple(ca.certificate)) as emulator:
        yield emulator


@pytest.fixture
def machine(installed: Path, chip: Chip, service: Emulator, tmp_path: Path, short_folder: Path) -> Iterator[Machine]:
    """A machine with a TPM, which reaches the service."""
    environ = {
        "HOME": str(tmp_path / "home"),
        "TPM2_TCTI": chip.tpm.tcti,
        "AWS_ENDPOINT_URL_ROLESANYWHERE": service.url,
        "PIP_CACHE_DIR": str(installed / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    (tmp_path / "home").mkdir()
    with open_machine(short_folder, environ) as machine:
        yield machine


def arns(service: Emulator) -> dict[str, str]:
    return {
        "trust_anchor_arn": service.trust_anchor_arn,
        "profile_arn": service.profile_arn,
        "role_arn": service.role_arn,
    }


@pytest.mark.root
def test_ansible_gives_a_server_credentials_and_changes_nothing_when_run_again(
    installed: Path, machine: Machine, site: Site, service: Emulator, wheel: Path, tpm_wheel: Path, tmp_path: Path
) -> None:
    with site.serving() as server:
        given = {
            "ansible_become": False,
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "hwsigner_wheel": str(wheel),
            "tpm_wheel": str(tpm_wheel),
            "policy": str(site.policy),
            "registrar_url": f"http://127.0.0.1:{server.socket.getsockname()[1]}",
            **arns(service),
        }
        program = installed / "python" / "bin" / "ansible-playbook"
        folder = RECIPES / "ansible"
        command: list[str | Path] = [
            program,
            "--inventory",
            folder / "inventory.yml",
            "--limit",
            "web-01",
            "--extra-vars",
        ]
        first = machine.run(*command, json.dumps(given), folder / "playbook.yml")
        assert re.search(r"^web-01 .* changed=[1-9]\d* .* failed=0 +skipped=0 ", first, re.MULTILINE), first
        assert site.decisions == ["challenged", "proven", "issued"]
        again = machine.run(*command, json.dumps(given), folder / "playbook.yml")
        assert re.search(r"^web-01 .* changed=0 .* failed=0 +skipped=0 ", again, re.MULTILINE), again
    assert site.decisions == ["challenged", "proven", "issued"]
    profile = machine.run("cat", "/etc/hwsigner/config.toml")
    assert 'allow-users = ["www-data"]' in profile
    assert machine.run("systemctl", "is-enabled", "hwsigner-renew@web.timer", "hwsigner-agent.socket").split() == [
        "enabled",
        "enabled",
    ]


@pytest.mark.root
def test_image_has_no_key_and_its_first_boot_enrols_the_machine(
    machine: Machine, site: Site, service: Emulator, chip: Chip, wheel: Path, tpm_wheel: Path
) -> None:
    unit = RECIPES / "packer" / "hwsigner-first-boot.service"
    machine.run("cp", wheel, tpm_wheel, "/var/cache/")
    machine.run("cp", unit, "/etc/systemd/system/")
    machine.run(RECIPES / "packer" / "provision.sh")
    assert machine.run("ls", "/etc/pki") == ""
    machine.run("systemd-analyze", "verify", unit.name)
    enabled = machine.run("systemctl", "is-enabled", unit.name, "hwsigner-renew@web.timer", "hwsigner-agent.socket")
    assert enabled.split() == ["enabled"] * 3
    hash_ = machine.run("/opt/hwsigner/bin/hwsigner", "attest", "--ek").strip()
    subject = "CN=web-07,OU=web"
    run_tool(
        [
            sys.executable,
            "-m",
            "hwsigner",
            "registrar",
            "allow",
            hash_,
            "--subject",
            subject,
            "--policy",
            str(site.policy),
        ],
        {},
    )
    with site.serving() as server:
        [command] = re.findall(r"^ExecStart=(.*)$", unit.read_text().replace("\\\n", " "), re.MULTILINE)
        command = command.replace("%H", "web-07").replace(
            "https://registrar.example.com:8443", f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        )
        for name, arn in arns(service).items():
            command = re.sub(rf"(--{name.replace('_', '-')})=\S+", rf"\1={arn}", command)
        for expected in ("made now", "already there"):
            assert expected in machine.run(*command.split())
    assert site.decisions == ["challenged", "proven", "issued"]
    credentials = json.loads(machine.run("/opt/hwsigner/bin/hwsigner", "credential-process", "--profile", "web"))
    assert credentials["Version"] == 1


def test_packer_template_names_the_files_of_the_recipe(installed: Path) -> None:
    template = parse((RECIPES / "packer" / "server.pkr.hcl").read_text(), installed)
    [build] = template["build"]
    [script] = build["provisioner"]["shell"]
    copied = [each for one in build["provisioner"]["file"] for each in one.get("sources", [one.get("source")])]
    assert copied[:2] == ["${var.wheel}", "${var.tpm_wheel}"]
    files = [script["script"], *copied]
    there = [Path(name.replace("${path.root}", str(RECIPES / "packer"))) for name in files if "path.root" in name]
    assert [path.name for path in there if path.is_file()] == ["provision.sh", "hwsigner-first-boot.service"]


def test_gitlab_job_has_the_form_of_gitlabs_schema(installed: Path) -> None:
    check = installed / "python" / "bin" / "check-jsonschema"
    file = RECIPES / "gitlab" / "gitlab-ci.yml"
    done = subprocess.run([check, "--builtin-schema=vendor.gitlab-ci", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
