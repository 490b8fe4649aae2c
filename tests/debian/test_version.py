"""The versions of the Debian packages sort as those of the Python package do. dpkg and packaging are the judges."""

from __future__ import annotations

import itertools
import subprocess

import pytest
from debian_packages import debian_version
from packaging.version import Version

# As the names of source distributions have them.
VERSIONS = sorted(
    ("0.9.0.dev1", "0.9.0a1", "0.9.0b2", "0.9.0rc1.dev1", "0.9.0rc1", "0.9.0", "0.9.0.post1", "0.10.0rc1"), key=Version
)


@pytest.mark.parametrize(("earlier", "later"), list(itertools.pairwise(VERSIONS)))
def test_prerelease_sorts_before_its_release(earlier: str, later: str) -> None:
    versions = [f"{debian_version(version)}-1~deb13" for version in (earlier, later)]
    subprocess.run(["dpkg", "--compare-versions", versions[0], "lt", versions[1]], check=True)
