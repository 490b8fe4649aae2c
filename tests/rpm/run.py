"""Install the RPMs of make rpm in new minimal roots of Debian, use, upgrade and erase them: `run.py DIST BUILT KEPT`.

rpm does not know Debian's packages. So apt installs what the RPMs require, and rpm does not look for it. KEPT keeps the
root that the tests begin with. Needs root, and packaging/ in PYTHONPATH.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from roots import archive

from packages.using import use, use_client
from rpm.life import BOTH, live
from rpm.root import RpmRoot
from rpm.running import run_services

SUITE = "trixie"
# By Fedora's packages filesystem, systemd and polkit, which the RPMs require.
OWNED_BY_OTHERS = {
    "/",
    "/etc",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib/systemd",
    "/usr/lib/systemd/system",
    "/usr/lib/systemd/user",
    "/usr/lib/sysusers.d",
    "/usr/lib64",
    "/usr/share",
    "/usr/share/doc",
    "/usr/share/licenses",
    "/usr/share/man",
    "/usr/share/man/man1",
    "/usr/share/polkit-1",
    "/usr/share/polkit-1/rules.d",
}


def main(dist: str, built: str, kept: str) -> int:
    """Test the packages and return the exit status."""
    packages = [*Path(dist).resolve().glob("*.src.rpm"), *sorted(Path(built).resolve().glob("*.rpm"))]
    if len(packages) != 3:
        raise SystemExit(f"{dist} must have a source RPM, and {built} its two RPMs: run make rpm first")
    minimal = archive(Path(kept).resolve(), f"rpm-{SUITE}", SUITE, ("rpm",))
    for test in (unpack, inspect, install_and_use, live, run_services):
        print(f"== {test.__doc__}", flush=True)
        with tempfile.TemporaryDirectory(prefix="hwsigner-rpm-") as temporary:
            test(RpmRoot(minimal, Path(temporary, "root")), *packages)
    return 0


def unpack(root: RpmRoot, source: Path, _program: Path, _client: Path) -> None:
    """the source RPM, whose spec says what a build needs on RHEL 9 and 10"""
    root.rpm("--install", *root.put(source))
    for release, python in ((9, "python3.12"), (10, "python3")):
        macros = (f"--define=rhel {release}", "--define=python3_pkgversion 3")
        query = ("rpmspec", "--query", "--buildrequires", *macros)
        needs = root.run(*query, "/root/rpmbuild/SPECS/hwsigner.spec").splitlines()
        assert {f"{python}-devel", f"{python}-pip"} <= set(needs), (release, needs)


def inspect(root: RpmRoot, _source: Path, program: Path, client: Path) -> None:
    """what the RPMs have: every folder has an owner, and every library's licence is marked as one"""
    paths = root.put(program, client)
    owned = set(root.run("rpm", "--query", "--list", *paths).splitlines())
    folders = {str(folder) for path in owned for folder in Path(path).parents}
    assert folders - owned == OWNED_BY_OTHERS
    licences = root.run("rpm", "--query", "--licensefiles", *paths)
    for library in root.run("rpm", "--query", "--provides", paths[0]).splitlines():
        if found := re.match(r"bundled\(python3dist\((.+)\)\) = (.+)", library):
            folder = f"/{found[1].replace('-', '_')}-{found[2]}.dist-info/"
            assert re.search(rf"{re.escape(folder)}.*LICEN[CS]E", licences), folder


def install_and_use(root: RpmRoot, _source: Path, program: Path, client: Path) -> None:
    """the client alone, and hwsigner with keys in a file, a token and a TPM"""
    root.rpm("--install", *root.put(client))
    use_client(root)
    root.prepare(program)
    root.rpm("--install", *root.put(program))
    use(
        root,
        "/usr/lib64/hwsigner",
        "dnf install python3-boto3",
        "apt-get install -y --no-install-recommends python3-boto3",
    )
    assert root.run("rpm", "--verify", "--nodeps", *BOTH) == "", "no file of a package may have changed"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
