"""Build the Debian packages: `python packaging/debian_packages.py SDIST FOLDER KEPT [SUITE…]`.

Each suite has a new minimal root of its own, in which pip first downloads the libraries that requirements.txt of
`debian/` pins by hash. All that follows has no network: dpkg-buildpackage, and lintian, which must find nothing. KEPT
keeps the roots and the libraries for the next time. SOURCE_DATE_EPOCH dates the files: two runs write the same bytes.
Needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from email.utils import formatdate
from pathlib import Path

from roots import archive, call, call_thrice, digest, entering, extract, unpack

HERE = Path(__file__).parent / "debian"
# Each suite, and the end of its packages' version: the next release's is later.
SUITES = {"bookworm": "deb12", "trixie": "deb13"}
TOOLS = ("build-essential", "lintian")
PLACE = "build"


def main(sdist: str, out: str, kept: str, *suites: str) -> int:
    """Build the packages of these suites, or of all, into a folder. Return the exit status."""
    for suite in suites or SUITES:
        print(f"== {suite}", flush=True)
        with tempfile.TemporaryDirectory(prefix="hwsigner-deb-") as temporary:
            root = Path(temporary, "root")
            unpack(archive(Path(kept).resolve(), f"build-{suite}", suite, (*TOOLS, *_needs(suite))), root)
            source = _source(Path(sdist), root, suite)
            _libraries(root, source, Path(kept).resolve() / f"libraries-{suite}")
            _build(root, source, Path(out))
    return 0


def _needs(suite: str) -> list[str]:
    """Return the packages of Build-Depends that a suite has."""
    (found,) = re.findall(r"^Build-Depends:\n((?: .*\n)+)", (HERE / "control").read_text(), re.MULTILINE)
    # Of alternatives, the first is of the newest suite.
    which = 0 if suite == "trixie" else -1
    names = [re.sub(r" \(.*\)", "", line.strip(" ,").split(" | ")[which]) for line in found.splitlines()]
    return ["debhelper" if name == "debhelper-compat" else name for name in names]
