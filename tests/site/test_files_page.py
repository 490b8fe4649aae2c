"""The page of files and variables has each that the sources name, and no other variable."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import hwsigner
from pages import ROOT

pytestmark = pytest.mark.slow

PACKAGE = Path(hwsigner.__file__).parent
PAGE = (ROOT / "docs" / "reference" / "files.md").read_text()
ENVIRONMENT = PAGE[PAGE.index("## Environment") :]
VARIABLE = r"[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]"
# The rest of a name that is made: f"{scheme}_PROXY".
MADE = {"HTTPS_PROXY", "HTTP_PROXY"}
# Read by libraries, not by hwsigner.
OF_LIBRARIES = {"AWS_DEFAULT_REGION", "REQUESTS_CA_BUNDLE"}
# Names in capitals that are not variables: PKCS #11's, those of AWS APIs and of HTTP, and fields of the journal.
OTHERS = (
    "emulator/control/",
    "backends/pkcs11/errors.py",
    "_control_plane/",
    "_aws/apis.py",
    "trial/",
    "enrolment/issuers/private_ca.py",
    "doctor/report.py",  # All of the page's, which it does not read.
)
NOT_VARIABLES = {
    *("SC_OPEN_MAX", "SYSLOG_IDENTIFIER", "UNEXPECTED_EOF_WHILE_READING", "CERTIFICATE_BUNDLE"),
    "VERSION_ID",  # of os-release(5)
}
# Examples in help and errors, and places that a file is not read from or written to.
EXAMPLES = (
    "/etc/wsl.conf",
    "/etc/pki/web",
    "/etc/pki/vault",
    "/tmp/ca.pem",
    "/usr/sbin",
    "/home/",
    "/root/",
    "/run/user",
    "/dev/null",
)


@functools.cache
def constants() -> list[tuple[str, str]]:
    """Return the texts in the sources, without docstrings, each with its file."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        documented = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        docstrings = {id(node.body[0].value) for node in documented if node.body and isinstance(node.body[0], ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found.append((path.relative_to(PACKAGE).as_posix(), node.value))
    return found


def variables() -> set[str]:
    """Return the names of the variables that the sources read."""
    names = {text for file, text in constants() if re.fullmatch(VARIABLE, text) and not file.startswith(OTHERS)}
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    return (names | set(re.findall(r'environ(?:\.get\(|\[)"([A-Z]+)"', source)) | MADE) - NOT_VARIABLES


def test_page_has_every_variable_that_is_read() -> None:
    assert sorted(name for name in variables() - {"PATH"} if f"`{name}" not in ENVIRONMENT) == []


def test_page_has_no_variable_that_is_not_read() -> None:
    named = set(re.findall(rf"`({VARIABLE})[`=]", ENVIRONMENT))
    assert named - variables() - OF_LIBRARIES == set()


@pytest.mark.parametrize("folder", ["/etc", "/run", "/var", "/dev", "~"])
def test_page_has_every_file_that_the_sources_name(folder: str) -> None:
    files = {path for _, text in constants() for path in re.findall(rf"(?<![\w}}.]){folder}/[\w./-]+", text)}
    known = [name.rstrip("*") for name in re.findall(r"`([^`\s]+)`", PAGE) if "/" in name]
    told = {path for path in files for one in known if f"{path}/".startswith(one) or one.startswith(path)}
    assert sorted(path for path in files - told if not path.startswith(EXAMPLES)) == []
