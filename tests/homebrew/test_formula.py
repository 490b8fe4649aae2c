"""The Homebrew formula has the libraries that pip would install on a Mac. `make formula` checks the formula itself."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from homebrew.formula import OF_HOMEBREW, formula, resources

from pages import ROOT

EXTRAS = ROOT / "packaging" / "requirements" / "extras.txt"
# What only other extras bring.
NOT_THERE = {"certifi", "charset-normalizer", "idna", "packaging", "pyjwt", "requests", "tpm2-pytss"}


def test_resources_are_the_pinned_versions_without_what_homebrew_has() -> None:
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", EXTRAS.read_text(), re.MULTILINE))
    wanted = {name: version for name, version in pinned.items() if name not in NOT_THERE | set(OF_HOMEBREW)}
    assert {one["name"]: one["version"] for one in resources()} == wanted


def test_formula_names_the_file_with_its_hash(tmp_path: Path) -> None:
    sdist = tmp_path / "hwsigner-1.2.3.tar.gz"
    sdist.write_bytes(b"archive")
    text = formula(sdist, "https://example.com/releases/")
    assert '  url "https://example.com/releases/hwsigner-1.2.3.tar.gz"\n' in text
    assert f'  sha256 "{hashlib.sha256(b"archive").hexdigest()}"\n' in text
    assert text.count("  resource ") == len(resources())
    assert not re.search(r"@[a-z0-9]+@", text)
