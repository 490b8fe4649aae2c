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
