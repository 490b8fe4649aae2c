"""Install the Debian packages in new minimal roots, use, upgrade and purge them: `run.py DIST KEPT [SUITE…]`.

KEPT keeps the roots that the tests begin with. Needs root, and packaging/ in PYTHONPATH.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from debian_packages import SUITES
from roots import archive

from debian.life import live
from debian.running import run_users
from debian.tutorial import follow_quick_start, follow_tutorial
from packages.root import Root
from packages.using import use, use_client
from pages import between

PAGE = "docs/how-to/debian-package.md"


def main(dist: str, kept: str, *suites: str) -> int:
    """Test the packages of these suites, or of all, and return the exit status."""
    for suite in suites or SUITES:
        found = sorted(Path(dist).resolve().glob(f"hwsigner*~{SUITES[suite]}_*.deb"), reverse=True)
        if len(found) != 2:
            raise SystemExit(f"{dist} must have two packages for {suite}: run make deb first")
        (program, client) = found
        minimal = archive(Path(kept).resolve(), f"minimal-{suite}", suite, ())
        # Debian 12 has version 1 of the AWS CLI, which these pages are not for.
        pages = (follow_tutorial, follow_quick_start) if suite == "trixie" else ()
        for test in (install_and_use, live, run_users, *pages):
            print(f"== {suite}: {test.__doc__}", flush=True)
            with tempfile.TemporaryDirectory(prefix="hwsigner-deb-") as temporary:
                test(Root(minimal, Path(temporary, "root")), program, client)
    return 0


def install_and_use(root: Root, program: Path, client: Path) -> None:
    """the client alone, and hwsigner with keys in a file, a token and a TPM"""
    root.run("dpkg", "--install", *root.put(client))
    use_client(root)
    root.apt("update")
    root.put(program)
    root.run("sh", "-ec", f"cd /packages; {_commands('## Install', 'The program is')}")
    root.run("sh", "-ec", _commands("## Python programs", "An upgrade of the package"))
    boto3 = _commands("also need Debian's own", "## Start")
    use(root, "/usr/lib/hwsigner", "apt-get install python3-boto3", boto3)


def _commands(start: str, end: str) -> str:
    """Return the page's commands between two texts."""
    return "".join(each.text for each in between(PAGE, "sh", start, end))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
