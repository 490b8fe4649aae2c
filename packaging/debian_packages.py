"""Build the Debian packages: `python packaging/debian_packages.py SDIST FOLDER KEPT [SUITE…]`.

Each suite has a new minimal root of its own, in which pip first downloads the libraries that requirements/debian.txt
pins by hash. All that follows has no network: dpkg-buildpackage, and lintian, which must find nothing. KEPT keeps the
roots and the libraries for the next time: two runs then write the same bytes. SOURCE_DATE_EPOCH dates the files. Needs
root.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from email.utils import formatdate
from pathlib import Path

from roots import archive, call, digest, download, entering, extract, unpack

DEBIAN = Path(__file__).parent / "debian"
# Each suite, and the end of its packages' version: the next release's is later.
SUITES = {"bookworm": "deb12", "trixie": "deb13"}


def main(sdist: str, out: str, kept: str, *suites: str) -> int:
    """Build the packages of these suites, or of all, into a folder. Return the exit status."""
    for suite in suites or SUITES:
        print(f"== {suite}", flush=True)
        with tempfile.TemporaryDirectory(prefix="hwsigner-deb-") as temporary:
            root = Path(temporary, "root")
            unpack(_kept(suite, Path(kept).resolve()), root)
            source = _source(Path(sdist), root, suite)
            pins = source / "packaging" / "requirements" / "debian.txt"
            download(root, pins, source / "debian" / "libraries", Path(kept).resolve() / f"libraries-{suite}")
            _build(root, source, Path(out))
    return 0


def _kept(suite: str, folder: Path) -> Path:
    """Return an archive of a root with lintian, and with what this machine's apt installs for Build-Depends."""
    needs = f"apt-get --yes --quiet=2 build-dep {shlex.quote(str(DEBIAN.parent.resolve()))} >/dev/null"
    hook = f'--customize-hook=APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" {needs}'
    name = f"build-{suite}-{digest((DEBIAN / 'control').read_text())}"
    return archive(folder, name, suite, ("lintian",), hook)


def _source(sdist: Path, root: Path, suite: str) -> Path:
    """Unpack the source distribution in a root, with `debian/` in it."""
    place = root / "build"
    extract(sdist, place)
    (source,) = place.iterdir()
    debian = source / "debian"
    shutil.copytree(source / "packaging" / "debian", debian)
    version = source.name.removeprefix("hwsigner-")
    (maintainer,) = re.findall(r"^Maintainer: (.+)$", (debian / "control").read_text(), re.MULTILINE)
    moment = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    (debian / "changelog").write_text(
        f"hwsigner ({debian_version(version)}-1~{SUITES[suite]}) {suite}; urgency=medium\n\n"
        f"  * Version {version}. /usr/share/doc/hwsigner/changelog.gz says what is new.\n\n"
        f" -- {maintainer}  {formatdate(moment)}\n"
    )
    return source


def debian_version(version: str) -> str:
    """Return a version of Python's packages as one of Debian's, in which `~` sorts before the end."""
    return re.sub(r"(?=(a|b|rc)\d)", "~", version).replace(".dev", "~~dev")


def _build(root: Path, source: Path, out: Path) -> None:
    """Build the packages without a network, have lintian judge them, and copy them out."""
    inside = Path("/", source.relative_to(root))
    command = ("dpkg-buildpackage", "--build=binary", "--no-sign")
    call(*entering(root, "/usr/bin/env", "-C", inside, *command, online=False))
    packages = sorted(source.parent.glob("*.deb"))
    # lintian of one suite does not know each tag of the other's.
    suppressed = "--suppress-tags=unused-override,alien-tag"
    lintian = ("lintian", "--allow-root", suppressed, "--display-info", "--fail-on=error,warning,info")
    names = [Path("/", package.relative_to(root)) for package in packages]
    call(*entering(root, *lintian, *names, online=False))
    for package in packages:
        shutil.copy(package, out)
        print(f"{package.name}: {package.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
