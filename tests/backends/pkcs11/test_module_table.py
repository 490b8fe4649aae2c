"""The table of modules in docs/how-to/pkcs11-in-use.md: each column says what the commands did with a new token.

`python tests/backends/pkcs11/test_module_table.py` prints the table.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest

import certs
import judges
from hwsigner._cli.sign_string import fixed_string
from hwsigner.key.public_key import plain_public_key
from hwsigner.testing import openssl_verifies
from pkcs11_shim import ROOT
from real_modules import (
    ModuleToken,
    nss_token,
    opencryptoki_token,
    remote_token,
    softhsm_token,
    tpm2_token,
)

pytestmark = [pytest.mark.slow, judges.needs_opensc]
PAGE = ROOT / "docs/how-to/pkcs11-in-use.md"
MODULES: dict[str, Callable[[Path], AbstractContextManager[ModuleToken]]] = {
    "SoftHSM": softhsm_token,
    "NSS": nss_token,
    "libtpm2-pkcs11": tpm2_token,
    "opencryptoki": opencryptoki_token,
    "p11-kit's remoting": remote_token,
}


# Debian's packages, whose versions the page may name: `from 3.132`.
PACKAGES = {"NSS": "libnss3", "opencryptoki": "opencryptoki"}


class Done(NamedTuple):
    """A command that has ended, and how often it sent a PIN."""

    status: int
    output: str
    error: str
    logins: int


class Commands:
    """Runs hwsigner's commands on a token, through OpenSC's pkcs11-spy, which counts logins."""

    def __init__(self, token: ModuleToken, folder: Path) -> None:
        self.token = token
        self.folder = folder
        [self.spy] = glob.glob("/usr/lib/*/pkcs11-spy.so")

    def uri(self, attributes: str = "") -> str:
        """Return a URI of the token or of an object."""
        return self.token.uri(attributes, self.spy)

    def run(self, *arguments: str, pin: str | None = None) -> Done:
        """Run a command, with the right PIN by default, or an empty one for none."""
        log = self.folder / "spy"
        log.unlink(missing_ok=True)
        if pin is None:
            self.token.forgive()
        given = self.token.pin if pin is None else pin
        env = {name: os.environ[name] for name in ("PATH", "HOME")} | {"XDG_STATE_HOME": str(self.folder / "state")}
        env |= {"PKCS11SPY": self.token.module, "PKCS11SPY_OUTPUT": str(log), "PYTHONPATH": str(ROOT), **self.token.env}
        command = [*self.token.prefix, sys.executable, "-m", "hwsigner", *arguments]
        env |= {"HWSIGNER_PIN": given} if given else {}
        done = subprocess.run(command, env=env, stdin=-3, capture_output=True, text=True, timeout=60, check=False)
        logins = len(re.findall(r"^\d+: C_Login$", log.read_text(), re.MULTILINE)) if log.exists() else 0
        return Done(done.returncode, done.stdout, done.stderr, logins)


def answers(commands: Commands) -> dict[str, str]:
    """Return what the commands did with a token, by the rows of the table."""
    key_id, flags, first = _make_first(commands)
    made = {"`keygen`, P-256": _words(key_id, flags)}
    for name, algorithm in (("RSA-2048", "rsa2048"), ("ML-DSA-65", "mldsa65")):
        uri = commands.uri(f"object={algorithm}{key_id.replace('01', algorithm[-2:])}")
        done = commands.run("keygen", uri, "--algorithm", algorithm, *flags)
        is_used = not done.status and _is_request(commands.run("csr", uri, "--subject", "CN=web").output)
        made[f"`keygen`, {name}"] = "yes" if is_used else "no"
    key = commands.uri("object=web")
    shown = commands.run("list", commands.uri(), pin="")
    wrong = commands.run("sign-string", "--private-key", key, pin="wrong-4711")
    flags_then = commands.token.slots()
    again = commands.run("sign-string", "--private-key", key, pin="wrong-4711")
    signed = commands.run("sign-string", "--private-key", key, "--format", "text", "--allow-final-pin-try")
    asked = commands.run("csr", key, "--subject", "CN=web")
    put, installed = _install(commands, key, asked.output)
    deleted = commands.run("delete", "--yes", key)
    left = commands.run("list", "--login", commands.uri()).output
    sent = [one.logins for one in (first, signed, asked, deleted)]
    return made | {
        "Keys shown without a PIN": "yes" if "\tweb\t" in shown.output else "no",
        "`sign-string`": "yes" if _is_signature(commands, asked.output, signed.output) else signed.error,
        "`csr`": "yes" if _is_request(asked.output) else asked.error,
        "`install-certificate`": installed,
        "`delete`": "yes"
        if deleted.output.count("deleted ") == 2 + (installed == "yes") and "\tweb\t" not in left
        else deleted.error,
        "A wrong PIN is sent, in two commands": "once"
        if (wrong.logins, again.logins) == (1, 0)
        else f"{wrong.logins} + {again.logins}"
        if wrong.status == 3
        else wrong.error,
        "The token shows that a PIN was wrong": "yes"
        if "user PIN count low" in flags_then or "final user PIN try" in flags_then
        else "no",
        "A right PIN is sent by `install-certificate`": "twice" if put.logins == 2 else str(put.logins),
        "A right PIN is sent by each other command": "once" if sent == [1] * len(sent) else str(sent),
    }


def _make_first(commands: Commands) -> tuple[str, list[str], Done]:
    """Make a P-256 key as the hints say, and return what they wanted: an id in the URI, flags."""
    key_id, flags = "", list[str]()
    while True:
        done = commands.run("keygen", commands.uri(f"object=web{key_id}"), *flags)
        if not done.status:
            return key_id, flags, done
        if "id=%01" in done.error and not key_id:
            key_id = ";id=%01"
        else:
            assert "--accept-unproven" in done.error, done.error
            assert not flags, done.error
            flags.append("--accept-unproven")


def _words(key_id: str, flags: list[str]) -> str:
    wanted = [*(["`id=`"] if key_id else []), *(f"`{one}`" for one in flags)]
    return f"with {' and '.join(wanted)}" if wanted else "yes"


def _openssl(data: str, *arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _install(commands: Commands, key: str, request: str) -> tuple[Done, str]:
    """Install a certificate; return the command, and whether the token shows it without a login, or the error."""
    path = commands.folder / "web.pem"
    public_key = _public_key(request)
    path.write_bytes(certs.pem(certs.issue(certs.make_ca(), public_key)))
    done = commands.run("install-certificate", str(path), key)
    shown = commands.run("list", commands.uri(), pin="").output
    is_shown = re.search("^certificate\tweb\t", shown, re.MULTILINE)
    return done, done.error or ("yes" if is_shown else "hidden")


def _public_key(request: str) -> bytes:
    """Return the public key of a request as a DER SubjectPublicKeyInfo."""
    pem = _openssl(request, "req", "-noout", "-pubkey")
    command = ["openssl", "pkey", "-pubin", "-outform", "DER"]
    return subprocess.run(command, input=pem.encode(), capture_output=True, check=True).stdout


def _is_request(pem: str) -> bool:
    return "verify OK" in _openssl(pem, "req", "-verify", "-noout")


def _is_signature(commands: Commands, request: str, signature: str) -> bool:
    """Return whether a signature of `sign-string` is of the key that a request is for."""
    public_key = _public_key(request)
    message = fixed_string(plain_public_key(public_key))
    return openssl_verifies(commands.folder, public_key, bytes.fromhex(signature), message, "sha256")


def column_of_page(name: str) -> dict[str, str]:
    """Return what the page says of a module, by the rows of its table."""
    table = PAGE.read_text().partition("\n| Command or question |")[2].partition("\n\n")[0]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in f"|{table}".splitlines())
    column = head.index(name) + 1
    return {row[0]: _now(name, row[column]) for row in rows}


def _now(name: str, cell: str) -> str:
    """Return what a cell says of the version that the system has."""
    if not cell.startswith("from "):
        return cell
    major, minor = map(int, cell.removeprefix("from ").split("."))
    return "no" if judges.is_older(PACKAGES[name], (major, minor)) else "yes"


@pytest.fixture
def commands(request: pytest.FixtureRequest, hardware: None, tmp_path: Path, short_folder: Path) -> Iterator[Commands]:
    with MODULES[request.param](short_folder) as token:
        yield Commands(token, tmp_path)


@pytest.mark.parametrize(
    "commands",
    [pytest.param(name, marks=pytest.mark.root if name == "opencryptoki" else ()) for name in MODULES],
    indirect=True,
)
def test_page_says_what_the_commands_do_with_a_module(commands: Commands, request: pytest.FixtureRequest) -> None:
    assert answers(commands) == column_of_page(request.node.callspec.params["commands"])


if __name__ == "__main__":
    columns = {}
    for name, make in MODULES.items():
        with tempfile.TemporaryDirectory() as folder, make(Path(folder)) as made:
            columns[name] = answers(Commands(made, Path(folder)))
    print("| Command or question", *columns, sep=" | ", end=" |\n")
    for row in next(iter(columns.values())):
        print(f"| {row}", *(one[row] for one in columns.values()), sep=" | ", end=" |\n")
