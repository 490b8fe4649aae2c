"""What the Debian packages bring with them. `make deb` and `make test-deb` build and try them."""

from __future__ import annotations

import re
import tomllib

from packaging.utils import canonicalize_name

from packaging.requirements import Requirement
from pages import ROOT

PINNED = re.compile(r"^([\w.-]+)==([\w.]+) .*\\\n +--hash=sha256:", re.MULTILINE)


def test_every_library_of_the_extras_is_pinned_by_hash_and_new_enough() -> None:
    folder = ROOT / "packaging"
    pins = {
        canonicalize_name(name): version
        for name, version in PINNED.findall((folder / "requirements" / "debian.txt").read_text())
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"'hwsigner\[(.+)\]'", (folder / "debian" / "rules").read_text())
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras.split(","))]
    for needed in map(Requirement, (line for lines in lists for line in lines)):
        assert pins[canonicalize_name(needed.name)] in needed.specifier


def test_copyright_names_every_library() -> None:
    folder = ROOT / "packaging"
    pins = {
        name: {canonicalize_name(found) for found, _ in PINNED.findall((folder / "requirements" / name).read_text())}
        for name in ("debian.txt", "build.txt", "extras.txt")
    }
    # What only builds is not in the package.
    libraries = (pins["debian.txt"] - pins["build.txt"] - {"cmake", "ninja"}) | (pins["build.txt"] & pins["extras.txt"])
    named = re.findall(
        r"^Files: debian/libraries/(\w+)\*$", (folder / "debian" / "copyright").read_text(), re.MULTILINE
    )
    assert {canonicalize_name(name) for name in named} == libraries
