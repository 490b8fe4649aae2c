"""Add what is compiled into the programs and libraries to a bill of materials in CycloneDX.

    python packaging/bundled.py BILL WHEEL SITE-PACKAGES

A wheel may have bills of its own, such as that of cryptography for OpenSSL (PEP 770). The program hwsigner-credentials
of a wheel that `make wheels` built has parts of Zig's musl. The result must fit the schema. Python must be the one that
has packaging/requirements/release.txt installed.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

Component = dict[str, Any]


def main(file: str, wheel: str, folder: str) -> int:
    """Rewrite the bill. Return the exit status."""
    bill = json.loads(Path(file).read_text())
    add_libraries(bill, Path(folder))
    if "manylinux" in wheel or "musllinux" in wheel:
        _add(bill["metadata"]["component"], [_musl()])
    text = json.dumps(bill, indent=2) + "\n"
    _validate(text)
    Path(file).write_text(text)
    return 0


def add_libraries(bill: dict[str, Any], folder: Path) -> None:
    """Add the parts that installed libraries name in bills of their own.

    Args:
        bill: the bill, which has these libraries.
        folder: where they are installed.
    """
    libraries = {_normal(library["name"]): library for library in bill["components"]}
    for path in sorted(folder.glob("*.dist-info/sboms/*.json")):
        name = path.parents[1].name.partition("-")[0]
        _add(libraries[_normal(name)], json.loads(path.read_text()).get("components", []))


def _add(owner: Component, parts: list[Component]) -> None:
    """Make a component contain others. A bill has each reference once."""
    inside = owner.setdefault("components", [])
    for part in parts:
        inside.append({**part, "bom-ref": f"{owner['bom-ref']}/{part['name']}@{part['version']}"})


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _musl() -> Component:
    import ziglang

    header = Path(ziglang.__file__).parent / "lib" / "libc" / "musl" / "src" / "internal" / "version.h"
    (version,) = re.findall(r'"(.+)"', header.read_text())
    licences = [{"license": {"id": "MIT"}}]
    purl = f"pkg:generic/musl@{version}"
    return {"type": "library", "name": "musl", "version": version, "purl": purl, "licenses": licences}


def _validate(text: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        raise SystemExit(f"The bill of materials does not fit the schema: {error}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
