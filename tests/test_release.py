"""What a release says of itself, its version and its notes, and what it is built from. `make release` builds it."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import bundled
import cryptography
import pytest
from cryptography.hazmat.backends.openssl.backend import backend

from hwsigner import __version__
from packaging.requirements import Requirement
from pages import ROOT

PINS = ROOT / "packaging" / "requirements"
# The extras for users.
RELEASED = ["pkcs11", "tpm2", "requests", "aws", "serve", "pods", "completion"]


def release(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script of a folder that has what the notes are made of."""
    command = [str(folder / "packaging" / "release"), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": "0"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the files that the notes are made of."""
    for name in ("packaging/release", "hwsigner/_version.py", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_changelog_begins_with_this_version() -> None:
    heading = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading
    assert re.fullmatch(rf"{re.escape(__version__)} \((not released|\d{{4}}-\d\d-\d\d)\)", heading[1])


def test_pages_name_this_version_of_the_wheel() -> None:
    files = [path for path in (ROOT / "docs").glob("**/*") if path.suffix in (".md", ".yml", ".hcl", ".tf")]
    found = {version for path in files for version in re.findall(r"hwsigner-(\d[\d.]*\d)-", path.read_text())}
    assert found == {__version__}


@pytest.mark.slow
def test_source_distribution_has_what_its_tests_and_pages_run(tmp_path: Path) -> None:
    call = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", call, tmp_path], check=True, cwd=ROOT, capture_output=True)
    with tarfile.open(tmp_path / f"hwsigner-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tools = [ROOT / "Makefile", ROOT / "NOTICE", *(ROOT / "trials").iterdir(), *(ROOT / ".ci").iterdir()]
    assert {str(path.relative_to(ROOT)) for path in tools} <= names
    assert [name for name in names if Path(name).name.startswith(".") or "__pycache__" in name] == []


def test_notes_are_what_the_changelog_says_about_this_version() -> None:
    done = release(ROOT, "notes")
    assert (done.returncode, done.stderr) == (0, "")
    assert not re.search("^## ", done.stdout, re.MULTILINE)
    assert done.stdout.strip() in (ROOT / "CHANGELOG.md").read_text()


def test_notes_leave_out_other_versions(sources: Path) -> None:
    text = "# Changelog\n\n## 0.9.1 (not released)\n\n- New.\n\n### Tests\n\n- More.\n\n## 0.9 (2026-01-01)\n\n- Old.\n"
    (sources / "CHANGELOG.md").write_text(text)
    (sources / "hwsigner" / "_version.py").write_text('__version__ = "0.9.1"\n')
    done = release(sources, "notes")
    assert (done.returncode, done.stdout.rstrip(), done.stderr) == (0, "- New.\n\n### Tests\n\n- More.", "")


@pytest.mark.parametrize("text", ["# Changelog\n", "## 0.9.0\n\n## 0.8.0\n\n- Old.\n"])
def test_version_without_notes_is_one_line_of_error_before_anything_is_built(text: str, sources: Path) -> None:
    (sources / "CHANGELOG.md").write_text(text)
    for arguments in ((), ("notes",)):
        done = release(sources, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith(f"CHANGELOG.md has nothing about version {__version__}: ")
    assert not (sources / "dist").exists()


def test_release_that_fails_leaves_no_file_of_an_earlier_one(sources: Path) -> None:
    (sources / "Makefile").write_text("wheel:\n\t@echo no compiler >&2; false\n")
    (sources / "dist").mkdir()
    (sources / "dist" / "SHA256SUMS").touch()
    done = release(sources)
    assert (done.returncode != 0, "no compiler" in done.stderr) == (True, True)
    assert not (sources / "dist").exists()


def test_release_says_that_it_is_a_rehearsal_before_it_builds_for_minutes(sources: Path) -> None:
    (sources / "Makefile").write_text("wheel:\n\t@echo no compiler >&2; false\n")
    said = release(sources).stderr
    assert -1 < said.find("This is a rehearsal: ") < said.find("no compiler")


def test_release_of_sources_without_git_is_a_rehearsal(sources: Path) -> None:
    (sources / "Makefile").write_text("wheel:\n\t@echo no compiler >&2; false\n")
    (sources / "CHANGELOG.md").write_text(f"## {__version__} (2026-12-01)\n\n- New.\n")
    assert "This is a rehearsal: " in release(sources).stderr


def test_release_is_a_rehearsal_unless_the_last_commit_has_the_tag_of_its_version(sources: Path) -> None:
    (sources / "Makefile").write_text("wheel:\n\t@echo no compiler >&2; false\n")
    (sources / "CHANGELOG.md").write_text(f"## {__version__} (2026-12-01)\n\n- New.\n")
    commit_all(sources)
    expected = f"This is a rehearsal: the last commit does not have the tag v{__version__}.\n"
    assert release(sources).stderr.startswith(expected)
    subprocess.run(["git", "tag", f"v{__version__}"], cwd=sources, check=True)
    assert release(sources).stderr.startswith("no compiler")
    commit_all(sources)
    assert release(sources).stderr.startswith(expected)


def commit_all(folder: Path) -> None:
    """Commit a folder's files, in its own repository."""
    name = ("-c", "user.name=jo", "-c", "user.email=jo@example.org")
    for command in (["init", "-q"], ["add", "."], [*name, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


def test_bill_of_materials_has_the_openssl_that_is_compiled_into_cryptography() -> None:
    parts = parts_in_bill()["cryptography"]
    found = [f"OpenSSL {part['version']}" for part in parts if part["purl"].startswith("pkg:generic/openssl@")]
    assert found == [" ".join(backend.openssl_version_text().split()[:2])]
    assert len({part["bom-ref"] for part in parts}) == len(parts)


@pytest.mark.parametrize(
    ("library", "module", "part", "symbol"),
    [
        ("uvloop", "uvloop.loop", "libuv", b"uv_version"),
        ("httptools", "httptools.parser.parser", "llhttp", b"llhttp_execute"),
        ("httptools", "httptools.parser.url_parser", "http-parser", b"http_parser_parse_url"),
        ("cffi", "_cffi_backend", "libffi", b"LIBFFI_TMPDIR"),
    ],
)
def test_bill_of_materials_has_the_c_libraries_that_are_compiled_into_wheels(
    library: str, module: str, part: str, symbol: bytes
) -> None:
    found = {each["name"]: each.get("version", "") for each in parts_in_bill()[library]}
    code = Path(importlib.import_module(module).__file__ or "").read_bytes()
    assert symbol in code
    assert found[part].encode() in code


def test_bill_of_materials_has_the_version_of_libuv() -> None:
    [libuv] = parts_in_bill()["uvloop"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", libuv["version"])


def test_bill_of_materials_has_what_is_bundled_in_a_wheel_that_is_not_installed(tmp_path: Path) -> None:
    wheel = tmp_path / "tpm2_pytss-3.0.0+bundled-cp311-abi3-manylinux_2_34_x86_64.whl"
    inside = {
        "metadata": {"component": {"type": "library", "name": "tpm2-pytss", "bom-ref": wheel.name}},
        "components": [{"type": "library", "name": "openssl", "version": "3.0.22", "bom-ref": "openssl"}],
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tpm2_pytss-3.0.0+bundled.dist-info/sboms/debian.cdx.json", json.dumps(inside))
    bill: dict[str, Any] = {"components": []}
    bundled.add_wheel(bill, wheel)
    [library] = bill["components"]
    assert library["bom-ref"] == wheel.name
    assert [part["bom-ref"] for part in library["components"]] == [f"{wheel.name}/openssl@3.0.22"]


def parts_in_bill() -> dict[str, list[dict[str, Any]]]:
    """Return the parts that the bill names for each library of this environment."""
    folder = Path(cryptography.__file__).parents[1]
    names = {path.name.partition("-")[0] for path in folder.glob("*.dist-info")}
    bill: dict[str, Any] = {"components": [{"name": name, "bom-ref": name} for name in names]}
    bundled.add_libraries(bill, folder)
    return {library["name"]: library.get("components", []) for library in bill["components"]}


def test_unknown_argument_is_an_error(sources: Path) -> None:
    done = release(sources, "note")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Usage: packaging/release [notes]\n")


def test_keys_and_roots_of_a_release_are_deleted_though_its_emulator_has_died(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    [trap] = re.findall(r"^trap .+ EXIT$", (ROOT / "packaging" / "release").read_text(), re.MULTILINE)
    script = f"set -euo pipefail; temporary={tmp_path}/keys; true & emulator=$!; wait\n{trap}\nexit 3"
    assert subprocess.run(["bash", "-c", script], capture_output=True).returncode == 3
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("path", sorted(PINS.glob("*.txt")), ids=lambda path: path.stem)
def test_each_library_is_pinned_by_hash_and_from_no_index(path: Path) -> None:
    entries = re.split(r"(?<!\\)\n", path.read_text().strip())
    pinned = r"[a-z0-9-]+==\S+( ; [^\\]+)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\\n)?)+"
    assert [entry for entry in entries if not re.fullmatch(pinned, entry)] == []


def test_each_npm_package_is_pinned_by_hash_and_from_no_index() -> None:
    text = (ROOT / "tests" / "clients" / "package-lock.json").read_text()
    packages = {name: package for name, package in json.loads(text)["packages"].items() if name}
    assert packages
    assert [name for name, package in packages.items() if not package["integrity"].startswith("sha512-")] == []
    assert "resolved" not in text


@pytest.mark.parametrize(
    ("name", "extras"), [("base", []), ("demo", ["pkcs11", "tpm2"]), ("extras", RELEASED), ("dev", [*RELEASED, "dev"])]
)
def test_pins_are_of_what_the_project_requires(name: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    pins = [Requirement(line.rstrip("\\ ")) for line in (PINS / f"{name}.txt").read_text().splitlines() if "==" in line]
    found = {pin.name: next(iter(pin.specifier)).version for pin in pins}
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(found[requirement.name]), f"{requirement}: run make pins"
