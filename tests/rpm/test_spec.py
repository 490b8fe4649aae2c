"""What the spec of the RPMs repeats from other files. `make rpm` builds it."""

from __future__ import annotations

import re

from packaging.utils import canonicalize_name

from hwsigner import __version__
from pages import ROOT

SPEC = (ROOT / "packaging" / "rpm" / "hwsigner.spec").read_text()
RULES = (ROOT / "packaging" / "debian" / "rules").read_text()
COPYRIGHT = (ROOT / "packaging" / "debian" / "copyright").read_text()
PINS = (ROOT / "packaging" / "requirements" / "debian.txt").read_text()


def test_spec_has_this_version() -> None:
    assert re.findall(r"^Version: +(.+)$", SPEC, re.MULTILINE) == [__version__]


def test_spec_names_every_library_in_the_pinned_version() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+) ", PINS, re.MULTILINE))
    libraries = re.findall(r"^Files: debian/libraries/(\w+)\*$", COPYRIGHT, re.MULTILINE)
    expected = {name: pins[name] for name in map(canonicalize_name, libraries)}
    assert dict(re.findall(r"bundled\(python3dist\((.+)\)\) = (.+)", SPEC)) == expected


def test_spec_installs_the_extras_of_the_debian_package() -> None:
    extras = r"'hwsigner(\[.+\])'"
    assert re.findall(extras, SPEC) == re.findall(extras, RULES)


def test_spec_names_the_installer_for_which_errors_name_dnf() -> None:
    assert re.findall(r"echo (\w+) > .*/INSTALLER$", SPEC, re.MULTILINE) == ["rpm"]
