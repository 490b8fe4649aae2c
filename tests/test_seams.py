"""What is found by name at a seam is checked by mypy: `make lint` fails if one side of it is renamed or misspelt."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import hwsigner
from hwsigner._cli import COMMANDS
from hwsigner.attestation import _VERIFIERS
from hwsigner.backends import BACKENDS
from hwsigner.enrolment.issuers import ISSUERS

ROOT = Path(hwsigner.__file__).parents[1]
CHECKED_COMMANDS = Path("tests", "cli", "checked_commands.py")
BUILT_IN = sorted(
    {name for backend in BACKENDS.values() for name in (backend.module, backend.management, backend.attestation)} - {""}
    | {*ISSUERS.values(), *COMMANDS.values(), *_VERIFIERS.values()}
)


class Mistake(NamedTuple):
    """A mistake to plant: in a file of the package, the first text becomes the second wherever it is."""

    file: str
    text: str
    replacement: str


# Each room whose modules are loaded by name adds what can go wrong there.
MISTAKES = {
    "a backend's find_certificates is renamed": Mistake(
        "backends/tpm2/__init__.py", "def find_certificates(", "def find_certificate("
    ),
    "a backend's list_tokens takes another argument": Mistake(
        "backends/pkcs11/__init__.py", "log_in: bool = False", "login: bool = False"
    ),
    "a management module's delete_key is renamed": Mistake(
        "backends/tpm2/management.py", "def delete_key(", "def remove_key("
    ),
    "a management module's describe_key returns something else": Mistake(
        "backends/file/description.py", "-> KeyDescription:", "-> KeyDescription | None:"
    ),
    "an attestation module's answer_challenge is renamed": Mistake(
        "backends/pkcs11/attest.py", "def answer_challenge(", "def answer("
    ),
    "a verifier's challenge is renamed": Mistake("attestation/tpm2.py", "def challenge(", "def add_challenge("),
    "a capability's function is renamed in its Protocol": Mistake(
        "key/__init__.py", "    def find_certificates(self", "    def find_certificate(self"
    ),
    "an issuer's open_issuer takes another argument": Mistake(
        "enrolment/issuers/est.py",
        "def open_issuer(settings: IssuerSettings)",
        "def open_issuer(settings: IssuerSettings, label: str)",
    ),
    "an issuer's open_issuer is renamed": Mistake("enrolment/issuers/vault.py", "def open_issuer(", "def open_vault("),
    "an issuer returns something else": Mistake(
        "enrolment/issuers/command.py", "-> Issued | Pending:", "-> Issued | Pending | None:"
    ),
    "a command's add_arguments is renamed": Mistake("_cli/csr.py", "def add_arguments(", "def add_argument("),
    "a command's run takes nothing": Mistake("_cli/version.py", "def run(arguments: Arguments)", "def run()"),
    "doctor finds what no table has": Mistake("doctor/machine.py", "local.KEY_MISMATCH", "local.KEY_MISSMATCH"),
    "a review of a policy finds what no table has": Mistake(
        "trust_policy/review.py", "policies.DENIED_ALWAYS", "policies.DENIED_ALLWAYS"
    ),
    "a check of an account finds what no table has": Mistake(
        "_control_plane/report.py", "account.ROLE_REFUSES", "account.ROLE_REFUSED"
    ),
    "a certificate breaks a rule for which doctor has no finding": Mistake(
        "_identity/certificate.py", 'BrokenRule("hash"', 'BrokenRule("signature-hash"'
    ),
    "a command has no HELP": Mistake("_cli/doctor.py", "\nHELP = ", "\nHEPL = "),
    "a setting is misspelt in the configuration": Mistake(
        "_config/settings.py", "values.private_key", "values.privat_key"
    ),
    "a setting is misspelt in a command": Mistake("_cli/csr.py", "settings.subject", "settings.subjekt"),
    "a setting is misspelt in an enrolment": Mistake("enrolment/profile.py", "values.issuer_url", "values.issuer_urll"),
    "a setting is misspelt in the agent": Mistake(
        "_agent/profile.py", "_settings.desktop_notifications", "_settings.desktop_notification"
    ),
    "a setting of monitoring is misspelt": Mistake("_config/monitoring.py", "found.audit_log", "found.auditlog"),
}


@pytest.mark.parametrize("module", BUILT_IN)
def test_module_that_is_loaded_by_name_is_checked_against_its_protocol(module: str) -> None:
    found = importlib.util.find_spec(module)
    assert found
    assert found.origin
    file = ROOT / CHECKED_COMMANDS if module in COMMANDS.values() else Path(found.origin)
    blocks = [part for part in ast.parse(file.read_text()).body if isinstance(part, ast.If)]
    for_mypy = [part for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING" for part in block.body]
    [statement] = [part for part in for_mypy if isinstance(part, ast.AnnAssign)]  # `_: Protocol = module`, or a list.
    assert ast.unparse(statement.target) == "_"
    assert statement.value
    checked = statement.value.elts if isinstance(statement.value, ast.List) else [statement.value]
    assert {module, module.rpartition(".")[2]} & {ast.unparse(one) for one in checked}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which mypy finds nothing, and has kept what it knows."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "hwsigner", folder / "hwsigner", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / CHECKED_COMMANDS).parent.mkdir(parents=True)
    shutil.copy(ROOT / CHECKED_COMMANDS, folder / CHECKED_COMMANDS)
    if (ROOT / ".mypy_cache").is_dir():  # That of `make lint` saves half a minute.
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")
    assert _mypy(folder).returncode == 0
    return folder


def _mypy(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "hwsigner", str(CHECKED_COMMANDS)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def planted(copy: Path, mistake: str) -> Iterator[Path]:
    """The copy with a mistake in it."""
    planted = MISTAKES[mistake]
    file = copy / "hwsigner" / planted.file
    right = file.read_text()
    assert planted.text in right, f"{planted.file} has changed: plant another mistake"
    file.write_text(right.replace(planted.text, planted.replacement))
    yield copy
    file.write_text(right)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mypy_finds_the_mistake(planted: Path, mistake: str) -> None:
    found = _mypy(planted)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "error:" in found.stdout
