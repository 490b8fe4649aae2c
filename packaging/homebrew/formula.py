"""Write the Homebrew formula of a source distribution: `python packaging/homebrew/formula.py SDIST FOLDER-URL`.

The libraries are those of packaging/requirements/pylock.homebrew.toml, which `make pins` writes. Homebrew has formulae
for some, and builds the others from source; pure Python may be a wheel.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "requirements" / "pylock.homebrew.toml"
TEMPLATE = Path(__file__).with_name("hwsigner.rb.in")
# What Homebrew's formula `cryptography` brings: this needs Rust.
OF_HOMEBREW = ("cffi", "cryptography", "pycparser")
# The only wheels that Homebrew installs: what it takes for them is this end of a name.
PURE = re.compile(r"[.-]py3[^-]*-none-any\.whl$")


def main(sdist: str, folder: str) -> int:
    """Print the formula. Return the exit status."""
    print(formula(Path(sdist), folder), end="")
    return 0


def formula(sdist: Path, folder: str) -> str:
    """Return the formula.

    Args:
        sdist: the source distribution.
        folder: the URL of the folder in which a release is.
    """
    values = {
        "folder": folder.rstrip("/"),
        "file": sdist.name,
        "sha256": hashlib.sha256(sdist.read_bytes()).hexdigest(),
        "resources": "\n\n".join(map(_resource, resources())),
    }
    return re.sub(r"@([a-z0-9]+)@", lambda match: values[match[1]], TEMPLATE.read_text())


def resources() -> list[dict[str, Any]]:
    """Return the pins of the libraries that are installed beside hwsigner, sorted by name."""
    packages = tomllib.loads(PINS.read_text())["packages"]
    return sorted((one for one in packages if one["name"] not in OF_HOMEBREW), key=lambda one: str(one["name"]))


def _resource(package: dict[str, Any]) -> str:
    files = [package["sdist"]] if "sdist" in package else [f for f in package["wheels"] if PURE.search(f["url"])]
    if not files:
        raise SystemExit(f"{package['name']} has no file that Homebrew can install")
    digest = files[0]["hashes"]["sha256"]
    return f'  resource "{package["name"]}" do\n    url "{files[0]["url"]}"\n    sha256 "{digest}"\n  end'


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
