"""The commands of pages that no other test runs: they do what the page says, with what the reader is told to have."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

import certs
import judges
from attestation.chips import Chip, Vendor, chip, chips, vendors
from cli.conftest import cleaned_tpm
from enrolment.bao_servers import ROLE, Bao
from enrolment.issuers.conftest import bao
from enrolment.registrar.sites import Issuer, Site, url
from hwsigner.emulator import Emulator, World
from pages import block, job_scripts, run_shell, shell_blocks
from ports import reserve_port
from softhsm.tpm import SoftTPM
from transcripts import is_shown

__all__ = ["bao", "chip", "chips", "cleaned_tpm", "vendors"]

pytestmark = pytest.mark.slow

ENROLMENT = "docs/how-to/enrolment.md"
JOBS = "docs/how-to/job-certificates.md"
ISSUE = "openssl x509 -req -in {0}.csr -CA ca.pem -CAkey ca.key -copy_extensions copy -out {0}.pem 2>/dev/null\n"


class Desk:
    """A folder in place of /etc/pki with a CA, a leaf and its key, and files; `web` and `db` are profiles."""

    def __init__(self, folder: Path, ca: certs.Authority, emulator: Emulator) -> None:
        self.folder = folder
        (folder / "ca.pem").write_bytes(ca.pem)
        certs.write_key(folder / "ca.key", ca.key)
        self.arns = {
            "--trust-anchor-arn": emulator.trust_anchor_arn,
            "--profile-arn": emulator.profile_arn,
            "--role-arn": emulator.role_arn,
        }
        (folder / "run").mkdir(mode=0o700)
        self.environ = {
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "AWS_ENDPOINT_URL": emulator.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def here(self, script: str) -> str:
        """Return a script with this folder and these ARNs in place of those for the reader to write."""
        script = script.replace("/etc/pki", str(self.folder)).replace("/opt/hwsigner/bin/", "")
        identity = {"--certificate": "leaf.pem", "--private-key": "leaf.key", **self.arns}
        for flag, value in identity.items():
            script = re.sub(rf"{flag} (?:ARN|…)", f"{flag} {value}", script)
        return script

    def run(self, script: str, **environ: str) -> str:
        return run_shell(self.here(script), self.folder, {**self.environ, **environ})

    def make_leaf(self) -> None:
        """Make the key and its certificate, and save the profiles."""
        arns = shlex.join(word for pair in self.arns.items() for word in pair)
        made = "hwsigner keygen leaf.key\nhwsigner csr leaf.key --subject CN=leaf,OU=devops --out leaf.csr\n"
        added = [
            f"hwsigner profile add {name} --certificate leaf.pem --private-key leaf.key {arns}\n"
            for name in ("web", "db")
        ]
        self.run(f"{made}{ISSUE.format('leaf')}{''.join(added)}")


@pytest.fixture
def desk(ca: certs.Authority, shared_emulator: Emulator, short_folder: Path) -> Desk:
    shared_emulator.clear_faults()
    return Desk(short_folder, ca, shared_emulator)


@pytest.fixture
def leaf(desk: Desk) -> Desk:
    desk.make_leaf()
    return desk


def test_commands_of_the_tpm_page(desk: Desk, cleaned_tpm: SoftTPM) -> None:
    made = shell_blocks("docs/how-to/tpm.md", "# TPM 2.0", "### With tpm2-tools")
    tools = shell_blocks("docs/how-to/tpm.md", "### With tpm2-tools", "A key that was made elsewhere")
    imported = shell_blocks("docs/how-to/tpm.md", "A key that was made elsewhere", "In such a file, tpm2_encodeobject")
    handle = shell_blocks("docs/how-to/tpm.md", "In such a file, tpm2_encodeobject", 'srk-name = "')
    name = shell_blocks("docs/how-to/tpm.md", 'srk-name = "', "hwsigner computes the Name")
    flush = "tpm2_flushcontext -t\n"
    signed = "hwsigner sign-string --private-key web.tss2\n"
    encoded = "tpm2_encodeobject -C srk.ctx -u web.pub -r web.prv -o web.tss2\n"
    plain = "openssl genpkey -algorithm EC -pkeyopt group:P-256 -out plain.pem\nrm web.tss2\n"
    issued = f"hwsigner csr handle:0x81000100 --subject CN=web --out web.csr\n{ISSUE.format('web')}"
    handle = handle.replace("hwsigner install-certificate", f"{issued}hwsigner install-certificate")
    persistent = "tpm2_evictcontrol -Q -C o -c srk.ctx 0x81000001\n"
    script = f"{made}rm web.tss2\n{tools}{flush}{signed}{plain}{imported}{flush}{encoded}{signed}{flush}{handle}"
    printed = desk.run(f"{script}{persistent}{name}{flush}", **cleaned_tpm.env, TPM2_TCTI=cleaned_tpm.tcti)
    assert '"subject": "CN=web"' in printed or "CN=web" in printed
    assert re.search(r"^000b[0-9a-f]{64}$", printed, re.MULTILINE)


def test_emulator_in_a_script(leaf: Desk) -> None:
    client = 'your-client() { hwsigner update --once --certificate leaf.pem --private-key leaf.key "$@"; }\n'
    script = shell_blocks("docs/how-to/emulator.md", "## In a script", "It prints `endpoint=`")
    assert ":assumed-role/" in leaf.run(f"{client}{script.replace(' …', '')}")


def test_emulator_with_a_trust_policy_says_why_it_refuses(leaf: Desk) -> None:
    policy = block("docs/how-to/emulator.md", "json", "## Trust policies", "A certificate with the OU")
    (leaf.folder / "trust-policy.json").write_text(policy)
    start = shell_blocks("docs/how-to/emulator.md", "## Trust policies", "A certificate with the OU").strip()
    script = f"""
        {start} > emulator.env 2> log &
        until grep -q ^role-arn= emulator.env; do sleep 0.1; done
        ! AWS_ENDPOINT_URL=$(sed -n s/^endpoint=//p emulator.env) hwsigner credential-process --profile web \\
            --trust-anchor-arn "$(sed -n s/^trust-anchor-arn=//p emulator.env)"
        cat log"""
    assert "requires StringEquals aws:PrincipalTag/x509Subject/CN 'bamboo-01', but it is 'leaf'" in leaf.run(script)


def test_control_plane_of_the_emulator_in_a_shell(leaf: Desk) -> None:
    script = shell_blocks("docs/how-to/emulator.md", "## The control plane", "In Python:")
    assert '"name": "office"' in leaf.run(script)


@judges.needs_aws_cli
def test_enrolment_by_vault(bao: Bao, ca: certs.Authority, swtpm: SoftTPM, short_folder: Path) -> None:
    root = bao.write("pki/cert/ca")["data"]["certificate"]
    script = shell_blocks(ENROLMENT, "# Enrolment", "## From an empty TPM to a role")
    script = script.replace("https://vault.example.com:8200", bao.url)
    script = script.replace("--issuer-secret", f"--issuer-ca-file {bao.ca_file} --issuer-secret")
    with Emulator(World.simple(root.encode())) as emulator:
        desk = Desk(short_folder, ca, emulator)
        (desk.folder / "token").touch(0o600)
        (desk.folder / "token").write_text(bao.token)
        assert ":assumed-role/" in desk.run(script, TPM2_TCTI=swtpm.tcti)


def test_enrolment_by_openssl(desk: Desk) -> None:
    script = shell_blocks(ENROLMENT, "For a demo, openssl can be that program", "### Vault and OpenBao")
    arns = "--trust-anchor-arn ARN --profile-arn ARN --role-arn ARN"
    flags = f"--private-key web.key --subject CN=web,OU=devops {arns}"
    desk.run(script.replace("web …", f"web {flags}"))
    assert (desk.folder / "web.crt").exists()


@judges.needs_aws_cli
def test_registrar_takes_an_empty_tpm_to_its_role(desk: Desk, chip: Chip, ca: certs.Authority, tmp_path: Path) -> None:
    site = Site(tmp_path, chip.trust, Issuer(ca))
    site.allow()
    script = shell_blocks(ENROLMENT, "Then each server takes three commands", "## Running it again")
    script = script.replace("9f86…", f"$(hwsigner attest --ek) --policy {site.policy}")
    with site.serving() as server:
        script = script.replace("https://registrar.example.com:8443", url(server))
        assert ":assumed-role/" in desk.run(script, TPM2_TCTI=chip.tpm.tcti)
    assert site.decisions == ["challenged", "proven", "issued"]


def test_administrator_sets_aws_up_for_the_registrar(desk: Desk) -> None:
    script = shell_blocks(ENROLMENT, "## From an empty TPM to a role", "Then each server takes three commands")
    with Emulator(World()) as emulator:
        emulator.add_credentials("AKIAIOSFODNN7EXAMPLE", "secret")
        keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
        script = script.replace("hwsigner aws setup", "hwsigner aws setup --yes")
        printed = desk.run(f"systemctl() {{ :; }}\n{script}", AWS_ENDPOINT_URL=emulator.url, **keys)
    assert "role-arn = arn:aws:iam::123456789012:role/web" in printed


def test_registrar_allows_a_machine(desk: Desk, chip: Chip) -> None:
    script = shell_blocks("docs/how-to/registrar.md", "5. Allow the first machine", "## The policy")
    script = script.replace("9f86…", f"$(hwsigner attest --ek) --policy {desk.folder}/policy.toml")
    desk.run(f"systemctl() {{ :; }}\n{script}", TPM2_TCTI=chip.tpm.tcti)
    assert 'subject = "CN=web-01,OU=web"' in (desk.folder / "policy.toml").read_text()


def test_proof_that_a_key_is_in_hardware(desk: Desk, chip: Chip, vendors: tuple[Vendor, Vendor]) -> None:
    (desk.folder / "roots").symlink_to(vendors[0].roots)
    made = "hwsigner keygen tpm2:path=web.tss2\nhwsigner csr web.tss2 --subject CN=web --out web.csr\n"
    script = shell_blocks("docs/how-to/keys.md", "## Prove that a key is in hardware", "## Delete a key")
    printed = desk.run(f"{made}{script}", TPM2_TCTI=chip.tpm.tcti)
    assert re.search(r"^proven", printed, re.MULTILINE | re.IGNORECASE), printed


@pytest.mark.usefixtures("hardware")
def test_emulated_tpm_with_a_certificate(desk: Desk) -> None:
    Vendor(desk.folder / "vendor")
    (desk.folder / "config").mkdir()
    (desk.folder / "config" / "swtpm_setup.conf").write_bytes((desk.folder / "vendor" / "setup.conf").read_bytes())
    tpm = desk.folder / "tpm"
    tpm.mkdir()
    script = shell_blocks("docs/how-to/attestation.md", "To try it out, Debian's", "## YubiKey")
    try:
        printed = desk.run(f"{script.replace('DIR', str(tpm))}hwsigner attest --ek\n")
    finally:
        subprocess.run(["swtpm_ioctl", "--unix", tpm / "socket.ctrl", "-s"], check=True)
    assert re.search(r"^[0-9a-f]{64}$", printed, re.MULTILINE)


def test_commands_with_credentials(leaf: Desk) -> None:
    script = shell_blocks("docs/how-to/serve.md", "## For one command", "Without a profile's name")
    (leaf.folder / "manage.py").write_text("import os; print(os.environ['AWS_CONTAINER_CREDENTIALS_FULL_URI'])")
    printed = leaf.run(script.replace("aws s3 ls", "aws sts get-caller-identity"))
    assert printed.count(":assumed-role/") == 2
    assert "http://127.0.0.1:" in printed


def test_doctor_prints_what_its_page_shows(desk: Desk) -> None:
    made = "hwsigner keygen web.key\nhwsigner csr web.key --subject CN=web --out web.csr\n"
    without_usage = ISSUE.format("web").replace("-copy_extensions copy", "")
    added = "hwsigner profile add web --certificate /etc/pki/web.pem --private-key /etc/pki/web.key"
    arns = "--trust-anchor-arn ARN --profile-arn ARN --role-arn ARN"
    script = shell_blocks("docs/how-to/doctor.md", "# Troubleshooting", "The exit status is 0")
    printed = desk.run(f"{made}{without_usage}{added} {arns}\necho BEGIN\n{script.strip()} || true\n")
    shown = block("docs/how-to/doctor.md", "text", "# Troubleshooting", "The exit status is 0")
    of_aws = "endpoint https://rolesanywhere.eu-central-1.amazonaws.com/sessions (region eu-central-1)"
    seen = re.sub(r"endpoint \S+ \(AWS_ENDPOINT_URL\)", of_aws, printed.partition("BEGIN")[2])
    assert is_shown(shown, seen.replace(str(desk.folder), "/etc/pki"))


def test_setting_aws_up_with_a_policy_and_retiring(desk: Desk) -> None:
    setup = shell_blocks("docs/reference/aws-setup.md", "# hwsigner aws setup", "It shows a plan first")
    retire = shell_blocks("docs/reference/retire.md", "# hwsigner retire", "- **Revoking**")
    setup, retire = (f"{script.strip()} --yes\n" for script in (setup, retire))
    issued = f"hwsigner csr web.key --subject CN=bamboo-01,OU=devops --out web.csr\n{ISSUE.format('web')}"
    installed = f"hwsigner keygen web.key\n{issued}hwsigner install-certificate web.pem web.key --profile web\n"
    with Emulator(World()) as emulator:
        emulator.add_credentials("AKIAIOSFODNN7EXAMPLE", "secret")
        keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
        printed = desk.run(f"{setup}{installed}{retire}", AWS_ENDPOINT_URL=emulator.url, **keys)
        [role] = emulator.world.roles.values()
    assert role.policies == ["arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"]
    assert "done: remove [profile.web]" in printed


def servers() -> list[str]:
    """Return the commands of the pages that run until they are ended."""
    served = shell_blocks("docs/how-to/serve.md", "## A server", "Local server started")
    watched = shell_blocks("docs/how-to/monitoring.md", "# Monitoring", "## The log")
    watched += shell_blocks("docs/how-to/monitoring.md", "## Metrics", "### ")
    return [line for line in (served + watched).splitlines() if line]


@pytest.mark.parametrize("command", servers())
def test_server_of_a_page_starts(command: str, leaf: Desk) -> None:
    port, run = reserve_port(), str(leaf.folder / "run")
    is_serve = command.startswith("hwsigner serve")
    command = command.partition(" #")[0].replace("/run/user/1000", run).replace(":9912", ":0")
    command = f"{leaf.here(command)} --port {port}" if is_serve else command
    last = "AUTHORIZATION_TOKEN_FILE" if is_serve else "metrics on"
    printed = leaf.run(f"{command} > output 2>&1 &\nuntil grep -q '{last}' output; do sleep 0.1; done\ncat output\n")
    if command.startswith("hwsigner serve web --imds"):
        shown = block("docs/how-to/serve.md", "text", "## A server", "### The container endpoint")
        assert is_shown(f"{shown}…", printed.replace(run, "/run/user/1000").replace(str(port), "9911"))


def test_one_key_has_roles_in_several_accounts(desk: Desk) -> None:
    made = (
        f"hwsigner keygen web.key\nhwsigner csr web.key --subject CN=web-01,OU=web --out web.csr\n{ISSUE.format('web')}"
    )
    setup = shell_blocks("docs/how-to/accounts.md", "## A set-up in each account", "Then give both profiles")
    used = shell_blocks("docs/how-to/accounts.md", "Then give both profiles", "In `~/.aws/config`")
    with Emulator(World()) as emulator:
        emulator.add_credentials("AKIAIOSFODNN7EXAMPLE", "secret")
        keys = "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE AWS_SECRET_ACCESS_KEY=secret"
        setup = setup.replace("hwsigner aws setup", f"{keys} hwsigner aws setup --yes")
        printed = desk.run(f"{made}{setup}{used}", AWS_ENDPOINT_URL=emulator.url)
    assert printed.count(":assumed-role/web/") == 2


def gitlab_job(token: str) -> tuple[str, dict[str, str]]:
    """Return the script of GitLab's job and its variables. The server that logs a job in gives the token."""
    (script,) = job_scripts(JOBS, "## GitLab", "## Jenkins")
    stub = f"curl() {{ echo '{json.dumps({'auth': {'client_token': token}})}'; }}\n"
    return stub + script, {"AWS_REGION": "us-east-1", "CI_JOB_ID": "4711"}


def jenkins_job(token: str) -> tuple[str, dict[str, str]]:
    """Return the one step of the Jenkinsfile, in the shell that Jenkins takes, and its variables."""
    pipeline = block(JOBS, "text", "## Jenkins", "## What a job can do")
    [step] = re.findall(r"^ +sh '(.*)'$", pipeline, re.MULTILINE)
    [secret] = re.findall(r"string\(credentialsId: '[\w-]+', variable: '(\w+)'\)", pipeline)
    given = dict(re.findall(r"^ +(\w+) = '(.*)'$", pipeline, re.MULTILINE))
    return f"sh -xe <<'STEP'\n{step}\nSTEP\n", {**given, secret: token, "BUILD_NUMBER": "4711"}


@judges.needs_aws_cli
@pytest.mark.parametrize("job_of", [gitlab_job, jenkins_job])
def test_job_has_a_certificate_of_its_own(
    bao: Bao, ca: certs.Authority, short_folder: Path, job_of: Callable[[str], tuple[str, dict[str, str]]]
) -> None:
    bao.write("pki/roles/ci", **{**ROLE, "ou": "ci", "ttl": "15m"})
    root = bao.write("pki/cert/ca")["data"]["certificate"]
    script = shell_blocks(JOBS, "## The script", "[Other issuers]").replace(
        "--issuer vault", f"--issuer vault --issuer-ca-file {bao.ca_file}"
    )
    job, given = job_of(bao.token)
    with Emulator(World.simple(root.encode())) as emulator:
        desk = Desk(short_folder, ca, emulator)
        (desk.folder / "ci").mkdir()
        (desk.folder / "ci" / "with-role").write_text(script)
        (desk.folder / "ci" / "with-role").chmod(0o755)
        (temporary := desk.folder / "tmp").mkdir()
        environ = {name.strip("-").replace("-", "_").upper(): value for name, value in desk.arns.items()}
        environ |= {**given, "CA_URL": f"{bao.url}/v1/pki/sign/ci", "TMPDIR": str(temporary)}
        printed = desk.run(job, **environ)
        [session] = [request for request in emulator.requests if request.target.startswith("/sessions")]
    assert ":assumed-role/" in printed
    assert session.accepted
    leaf = x509.load_der_x509_certificate(base64.b64decode(session.request.value("X-Amz-X509") or ""))
    assert "CN=job-4711" in leaf.subject.rfc4514_string().split(",")
    assert list(temporary.iterdir()) == []
