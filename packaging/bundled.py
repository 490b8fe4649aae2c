"""Add what is compiled into the programs and libraries to a bill of materials in CycloneDX.

    python packaging/bundled.py BILL WHEEL SITE-PACKAGES [WHEEL…]

A wheel may have bills of its own, such as that of cryptography for OpenSSL (PEP 770). For the others, COMPILED names
the parts. The last wheels are not installed, and go into the bill with what theirs name. The program
hwsigner-credentials of a wheel that `make wheels` built has parts of Zig's musl. The result must fit the schema. Python
must be the one that has packaging/requirements/release.txt installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

Component = dict[str, Any]
# The C libraries in wheels that have no bill. Only uvloop says which version it has.
COMPILED = {"cffi": ("libffi",), "httptools": ("http-parser", "llhttp"), "uvloop": ("libuv",)}
LIBUV = "from uvloop.loop import libuv_get_version as get; print('%d.%d.%d' % tuple(get().to_bytes(3)))"


def main(file: str, wheel: str, folder: str, *others: str) -> int:
    """Rewrite the bill. Return the exit status."""
    bill = json.loads(Path(file).read_text())
    add_libraries(bill, Path(folder))
    for other in others:
        add_wheel(bill, Path(other))
    if "manylinux" in wheel or "musllinux" in wheel:
        _add(bill["metadata"]["component"], [_musl()])
    text = json.dumps(bill, indent=2) + "\n"
    _validate(text)
    Path(file).write_text(text)
    return 0


def add_libraries(bill: dict[str, Any], folder: Path) -> None:
    """Add the parts of installed libraries.

    Args:
        bill: the bill, which has these libraries.
        folder: where they are installed, in a virtual environment.
    """
    libraries = {_normal(library["name"]): library for library in bill["components"]}
    for path in sorted(folder.glob("*.dist-info/sboms/*.json")):
        name = path.parents[1].name.partition("-")[0]
        _add(libraries[_normal(name)], json.loads(path.read_text()).get("components", []))
    python = folder.parents[2] / "bin" / "python"
    libuv = subprocess.run([python, "-c", LIBUV], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    for owner, parts in COMPILED.items():
        _add(libraries[owner], [_compiled(part, libuv if part == "libuv" else "") for part in parts])


def add_wheel(bill: dict[str, Any], wheel: Path) -> None:
    """Add a wheel that has a bill of its own, and the parts that this names."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/sboms/[^/]+\.json", each)]
        inside = json.loads(archive.read(name))
    owner = inside["metadata"]["component"]
    _add(owner, inside["components"])
    bill["components"].append(owner)


def _add(owner: Component, parts: list[Component]) -> None:
    """Make a component contain others. A bill has each reference once."""
    inside = owner.setdefault("components", [])
    for part in parts:
        version = f"@{part['version']}" if "version" in part else ""
        inside.append({**part, "bom-ref": f"{owner['bom-ref']}/{part['name']}{version}"})


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _musl() -> Component:
    import ziglang

    header = Path(ziglang.__file__).parent / "lib" / "libc" / "musl" / "src" / "internal" / "version.h"
    (version,) = re.findall(r'"(.+)"', header.read_text())
    return _compiled("musl", version)


def _compiled(name: str, version: str) -> Component:
    """Return a C library with the MIT licence, in a version or, if it is not known, in none."""
    part = {"type": "library", "name": name, "licenses": [{"license": {"id": "MIT"}}]}
    purl = f"pkg:generic/{name}"
    return {**part, "version": version, "purl": f"{purl}@{version}"} if version else {**part, "purl": purl}


def _validate(text: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        raise SystemExit(f"The bill of materials does not fit the schema: {error}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
