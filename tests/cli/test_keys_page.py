"""The commands of docs/how-to/keys.md and docs/start/quick.md run as they are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backends.pkcs11.tokens import remove_tokens
from emulators import InProcessSoftHSM
from judges import needs_openssl_3_5
from pages import ROOT, between, blocks, run_shell, shell_blocks
from softhsm.command import ToolError
from softhsm.command import run as run_tool
from softhsm.tpm import SoftTPM
from softhsm.yubikey import YKCS11, YubiKey

MANAGEMENT_KEY = "0102030405060708" * 3
ROLE_ARN = "arn:aws:iam::123456789012:role/web"
CA = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout ca.key -out ca.pem -subj '/CN=Demo CA' \\
    -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
openssl x509 -req -in web.csr -CA ca.pem -CAkey ca.key -copy_extensions copy -out web.pem 2>/dev/null
"""


def commands(script: str) -> str:
    """Return the shell commands of a page with ARNs. A CA issues what is installed, if no command does."""
    found = with_arns(script)
    return (
        found if "openssl x509" in found else re.sub(r"^hwsigner install-certificate", f"{CA}\\g<0>", found, flags=re.M)
    )


def with_arns(text: str) -> str:
    """Return a page with ARNs where its readers put their own."""
    for kind in ("trust-anchor", "profile"):
        arn = f"arn:aws:rolesanywhere:eu-central-1:123456789012:{kind}/3f6c1a52-9d7e-4c1b-8a90-0f4b7d2c6e11"
        text = re.sub(rf"(--{kind}-arn) (?:ARN|arn:\S+/UUID)", rf"\1 {arn}", text)
    return text.replace("--role-arn ARN", f"--role-arn {ROLE_ARN}")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """A function that runs commands in a new folder, which stands for /etc/pki, and returns their output."""
    folder = tmp_path / "pki"
    folder.mkdir()
    for name in ("pin", "passphrase"):
        (folder / name).write_text("1234")
        (folder / name).chmod(0o600)

    def run_all(script: str, **environment: str) -> str:
        environment = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), **environment}
        return run_shell(script.replace("/etc/pki", str(folder)), folder, environment)

    return run_all


@pytest.fixture
def tpm(swtpm: SoftTPM) -> Iterator[dict[str, str]]:
    """The environment that names a TPM. What the pages put into it is removed."""
    yield {"TPM2_TCTI": swtpm.tcti}
    for command in (
        ["tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81000100"],
        ["tpm2_nvundefine", "-Q", "0x01c20000"],
    ):
        with suppress(ToolError):  # The commands did not get as far.
            run_tool(command, swtpm.env)


@pytest.mark.slow
def test_life_of_a_key(run: Callable[..., str]) -> None:
    script = commands(shell_blocks("docs/how-to/keys.md", "# Keys", "## Which key")).replace(
        "credential-process", "show"
    )
    assert "yes, it is for this key" in run(script)


@pytest.mark.slow
def test_keys_in_files_and_their_ca(run: Callable[..., str]) -> None:
    made = commands(shell_blocks("docs/how-to/keys.md", "## A file", "## The certificate"))
    issued = commands(shell_blocks("docs/how-to/keys.md", "## The certificate", "## Look at a key"))
    request = "hwsigner csr /etc/pki/web.key --subject CN=web --out web.csr\n"
    installed = "hwsigner install-certificate web.pem /etc/pki/web.key\n"
    assert "--certificate" in run(f"{made}{request}{issued}{installed}")


@pytest.mark.slow
@needs_openssl_3_5
def test_post_quantum_keys(run: Callable[..., str]) -> None:
    script = shell_blocks("docs/how-to/keys.md", "### Post-quantum keys", "### Keys that you already have")
    shown = "hwsigner show /etc/pki/pq.key\nopenssl verify -CAfile pq-ca.pem /etc/pki/pq.crt\n"
    output = run(f"{script}{shown}")
    assert "Algorithm    ML-DSA-65" in output
    assert "pq.crt: OK" in output


def test_keys_of_a_tpm(run: Callable[..., str], tpm: dict[str, str]) -> None:
    script = commands(shell_blocks("docs/how-to/keys.md", "## A TPM server", "## A YubiKey"))
    assert "--certificate tpm2:nv=0x01c20000" in run(script, **tpm)


def test_looking_and_deleting(run: Callable[..., str], tpm: dict[str, str]) -> None:
    shown = commands(shell_blocks("docs/how-to/keys.md", "## Look at a key", "## Prove"))
    deleted = commands(shell_blocks("docs/how-to/keys.md", "## Delete a key", "## What is proven")).replace(
        "# asks", "--yes #"
    )
    output = run(f"hwsigner keygen tpm2:path=/etc/pki/web.tss2\n{shown}{deleted}", **tpm)
    assert "deleted the key in" in output


def test_key_of_a_token(run: Callable[..., str], softhsm: InProcessSoftHSM) -> None:
    script = commands(shell_blocks("docs/how-to/keys.md", "## An HSM", "## A file"))
    named = script.replace("/usr/lib/softhsm/libsofthsm2.so", softhsm.module).replace(
        "token=alpha", f"token={softhsm.label}"
    )
    assert "Algorithm  EC P-256" in run(named, **softhsm.env)
    remove_tokens(softhsm, softhsm.label)


def test_key_of_a_yubikey(run: Callable[..., str], yubikey: YubiKey) -> None:
    script = commands(shell_blocks("docs/how-to/keys.md", "## A YubiKey", "## An HSM"))
    named = script.replace("YubiKey%20PIV%20%2312345678", yubikey.uri(0x9A, YKCS11).split("token=")[1].split(";")[0])
    assert "slot 9a" in run(named, HWSIGNER_PIN=MANAGEMENT_KEY)


def test_readme_has_the_commands_of_the_quick_start() -> None:
    page = (ROOT / "docs/start/quick.md").read_text().splitlines()
    used = [
        line for each in between("README.md", "sh", "## Use it", "## Where it runs") for line in each.text.splitlines()
    ]
    assert len(used) > 9
    assert [line for line in used if line not in page] == []


@pytest.mark.parametrize("part", ["## A server with a TPM", "## A YubiKey", "## A build agent"])
def test_quick_start_takes_at_most_twelve_commands(part: str) -> None:
    page = (ROOT / "docs/start/quick.md").read_text()
    own = [each for each in blocks("docs/start/quick.md") if page.index(part) < each.offset]
    own = [each for each in own if each.offset < page.find("\n## ", page.index(part) + 1)]
    setup = between("docs/start/quick.md", "sh", "## Once, in AWS", "| Machine")
    text = re.sub(r"<<END\n.*?\nEND\n", "\n", "".join(each.text for each in [*setup, *own]), flags=re.DOTALL)
    # The packages are installed twice if AWS is set up on another machine; the CA's command is the reader's.
    assert len(text.splitlines()) - 1 <= 12


def test_quick_start_of_a_yubikey(run: Callable[..., str], yubikey: YubiKey, tmp_path: Path) -> None:
    script = commands(shell_blocks("docs/start/quick.md", "## A YubiKey", "## A build agent"))
    named = script.replace("YubiKey%20PIV%20%2312345678", yubikey.uri(0x9A, YKCS11).split("token=")[1].split(";")[0])
    named = named.replace("--touch-policy cached", "")
    for command in ("keygen", "install-certificate"):
        named = named.replace(f"hwsigner {command}", f"HWSIGNER_PIN={MANAGEMENT_KEY} hwsigner {command}")
    named = named.replace("hwsigner csr", "HWSIGNER_PIN=123456 hwsigner csr")
    assert "Installed  CN=web-jo" in run(named, HOME=str(tmp_path))
