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
from debian.root import Root
from debian.using import use


def main(dist: str, kept: str, *suites: str) -> int:
    """Test the packages of these suites, or of all, and return the exit status."""
    for suite in suites or SUITES:
        minimal = archive(Path(kept).resolve(), f"minimal-{suite}", suite, ())
        (program, client) = sorted(Path(dist).resolve().glob(f"hwsigner*~{SUITES[suite]}_*.deb"), reverse=True)
        for test in (use, live):
            print(f"== {suite}: {test.__doc__}", flush=True)
            with tempfile.TemporaryDirectory(prefix="hwsigner-deb-") as temporary:
                test(Root(minimal, Path(temporary, "root")), program, client)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
