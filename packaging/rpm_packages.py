"""Build the source RPM and, from it, the RPMs: `python packaging/rpm_packages.py SDIST FOLDER BUILT KEPT`.

The source RPM goes into FOLDER. It is for Fedora and RHEL, where `rpmbuild --rebuild` makes packages for that system.
Here, rpmbuild makes them in a new minimal root of Debian, with rpm/debian.macros, for the tests: they go into BUILT.
The root's pip first downloads the libraries that requirements/debian.txt pins by hash. All that follows has no network:
rpmbuild, and rpmlint, which must find nothing. KEPT keeps the root and the libraries for the next time: two runs then
write the same bytes. SOURCE_DATE_EPOCH dates the files. Needs root.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from roots import archive, call, download, entering, extract, unpack

SUITE = "trixie"
TOOLS = (
    "build-essential",
    "cmake",
    "file",
    "libtss2-dev",
    "ninja-build",
    "pkgconf",
    "python3-dev",
    "python3-pip",
    "rpm",
    "rpmlint",
)
# RHEL 9 and 10 and Fedora 40 have Python 3.12, Fedora 41 and 42 have 3.13, Fedora 43 has 3.14.
PYTHONS = ("3.12", "3.13", "3.14")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# All that has wheels, so that one is never replaced by sources without notice.
WHEELS = "--only-binary=:all: --no-binary=tpm2-pytss"


def main(sdist: str, out: str, built: str, kept: str) -> int:
    """Build the packages and have rpmlint judge them. Return the exit status."""
    moment = os.environ.get("SOURCE_DATE_EPOCH") or str(int(time.time()))
    with tempfile.TemporaryDirectory(prefix="hwsigner-rpm-") as temporary:
        root = Path(temporary, "root")
        unpack(archive(Path(kept).resolve(), "build-rpm", SUITE, TOOLS), root)
        folder = _sources(Path(sdist), root, Path(kept).resolve())
        rpmbuild = ("rpmbuild", "--quiet", "--nodeps", "--define=_topdir /build", "--load=/build/source/debian.macros")
        variables = {"SOURCE_DATE_EPOCH": moment}
        call(*entering(root, *rpmbuild, "-bs", "/build/source/hwsigner.spec", variables=variables, online=False))
        (source,) = (folder / "SRPMS").iterdir()
        inside = f"/build/SRPMS/{source.name}"
        call(*entering(root, *rpmbuild, "--rebuild", inside, variables=variables, online=False))
        packages = sorted((folder / "RPMS").rglob("*.rpm"))
        names = [f"/{package.relative_to(root)}" for package in (source, *packages)]
        lint = ("rpmlint", "--strict", "--rpmlintrc=/build/source/hwsigner.rpmlintrc", *names)
        call(*entering(root, *lint, online=False))
        for package, target in ((source, out), *((package, built) for package in packages)):
            shutil.copy(package, target)
            print(f"{package.name}: {package.stat().st_size} bytes", flush=True)
    return 0


def _sources(sdist: Path, root: Path, kept: Path) -> Path:
    """Put what rpmbuild starts with into a folder of a root: the spec and its two sources."""
    folder = root / "build"
    extract(sdist, folder)
    (tree,) = folder.iterdir()
    shutil.copytree(tree / "packaging" / "rpm", folder / "source")
    choices = [
        " ".join([f"--python-version={python}", *(f"--platform={each}" for each in PLATFORMS), WHEELS])
        for python in PYTHONS
    ]
    pins = tree / "packaging" / "requirements" / "debian.txt"
    libraries = folder / "libraries"
    download(root, pins, libraries, kept / "libraries-rpm", *choices)
    (folder / "SOURCES").mkdir()
    shutil.copy(sdist, folder / "SOURCES")
    version = tree.name.removeprefix("hwsigner-")
    with tarfile.open(folder / "SOURCES" / f"hwsigner-libraries-{version}.tar", "w") as packed:
        for library in sorted(libraries.iterdir()):
            # All these systems have them, and cmake is as large as all the others.
            if not library.name.startswith(("cmake-", "ninja-")):
                packed.add(library, f"libraries/{library.name}", filter=_anonymous)
    return folder


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Take from a file what differs from one download to the next."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o644
    return entry


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
