"""Build wheels of tpm2-pytss, which has none of its own: `python packaging/wheels/tpm2.py FOLDER KEPT [ARCHITECTURE…]`.

There are two for each architecture. Of their local versions, pip takes the later one, `+system`:

- `+system` uses the system's libtss2, that of Debian 12 or later. The distribution updates it, and OpenSSL.
- `+bundled` is the same, with Debian 12's libtss2, its TCTIs device, swtpm and mssim, and libcrypto. It needs nothing.

The compiler is Zig's, for headers and libraries of Debian 12, which mmdebstrap unpacks into KEPT: nothing of them runs.
FAPI is left out, because pkg-config does not find it. patchelf gives the bundled libraries names that no other library
has, so a process may have the system's too. Only the TCTIs keep theirs, by which libtss2 opens them.

While KEPT is kept, two runs write the same bytes. Python must be the one that has packaging/requirements/build.txt and
release.txt installed, and packaging/ must be in PYTHONPATH.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from auditwheel.wheeltools import InWheelCtx
from roots import ROOT, bootstrap, digest
from wheels.build import ARCHITECTURES, EPOCH, ZIG, headers, judge

SUITE, PACKAGES = "bookworm", ("libtss2-dev",)
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
# What pkg-config finds: not tss2-fapi.
CONFIGURATIONS = ("libcrypto", "tss2-esys", "tss2-mu", "tss2-rc", "tss2-sys", "tss2-tctildr")
# What is bundled, in the order in which each needs only earlier ones.
LIBRARIES = ("libcrypto.so.3", "libtss2-mu.so.0", "libtss2-sys.so.1", "libtss2-esys.so.0", "libtss2-rc.so.0")
LOADER = "libtss2-tctildr.so.0"
TCTIS = tuple(f"libtss2-tcti-{name}.so.0" for name in ("device", "swtpm", "mssim"))
# The platform of the bundled libraries: the C library of Debian 12 is 2.36, but they need no symbol of it.
BUNDLED = "manylinux_2_34"
# Debian's packages that have the bundled libraries, with their licences.
SOURCES = {"openssl": "libssl3", "tpm2-tss": "libtss2-esys-3.0.2-0"}


def main(folder: str, kept: str, *architectures: str) -> int:
    """Build the wheels into a folder, for these architectures or for all. Return the exit status."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", EPOCH)
    out = Path(folder).resolve()
    out.mkdir(parents=True, exist_ok=True)
    for architecture in architectures or ARCHITECTURES:
        print(f"== tpm2-pytss for {architecture}", flush=True)
        root = _root(Path(kept).resolve(), architecture)
        for old in out.glob(f"tpm2_pytss-*_{architecture}.whl"):
            old.unlink()
        with tempfile.TemporaryDirectory(prefix="hwsigner-tpm2-") as temporary:
            wheel = _build(root, architecture, Path(temporary))
            _audit(wheel)
            shutil.copy(wheel, out)
        name = wheel.name.replace("+system", "+bundled").replace("-linux_", f"-{BUNDLED}_")
        _bundle(out / wheel.name, out / name, root)
        judge(out / name, f"{BUNDLED}_{architecture}")
    return 0


def _root(kept: Path, architecture: str) -> Path:
    """Return a folder with Debian's headers and libraries for an architecture, made at the first call."""
    path = kept / f"tss2-{architecture}-{digest(' '.join((SUITE, *PACKAGES)))}"
    if not path.exists():
        new = path.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        kept.mkdir(parents=True, exist_ok=True)
        bootstrap(SUITE, new, PACKAGES, "--variant=extract", f"--architectures={DEBIAN[architecture]}")
        new.rename(path)
    return path


def _libraries(root: Path) -> Path:
    """Return the folder of a root that has its libraries."""
    (library,) = root.glob(f"usr/lib/*/{LOADER}")
    return library.parent


def _build(root: Path, architecture: str, work: Path) -> Path:
    """Build the wheel that uses the system's libraries, and return its path."""
    compiler = work / "cc"
    # tpm2-pytss runs CC as one word.
    compiler.write_text(f'#!/bin/sh\nexec "{ZIG}" cc -target {architecture}-linux-gnu.2.17 "$@"\n')
    compiler.chmod(0o755)
    (work / "pkgconfig").mkdir()
    for name in CONFIGURATIONS:
        shutil.copy(_libraries(root) / "pkgconfig" / f"{name}.pc", work / "pkgconfig")
    pin = work / "pin.txt"
    pin.write_text(_pin())
    environment = {
        **os.environ,
        "CC": str(compiler),
        "LDSHARED": f"{compiler} -shared",
        "CFLAGS": f"-O2 -g0 -isystem {headers(work)} -DPy_LIMITED_API=0x030b0000",
        "LDFLAGS": "-s",
        "PKG_CONFIG_LIBDIR": str(work / "pkgconfig"),
        "PKG_CONFIG_SYSROOT_DIR": str(root),
        "_PYTHON_HOST_PLATFORM": f"linux-{architecture}",
    }
    pip = (sys.executable, "-m", "pip", "--quiet", "--retries=10")
    options = ("--no-deps", "--no-build-isolation", "--require-hashes", "--no-binary=tpm2-pytss")
    subprocess.run([*pip, "download", *options, f"--dest={work}", f"--requirement={pin}"], check=True, env=environment)
    (source,) = work.glob("tpm2_pytss-*.tar.gz")
    environment["SETUPTOOLS_SCM_PRETEND_VERSION"] = f"{_version()}+system"
    abi = "--config-settings=--build-option=--py-limited-api=cp311"
    command = (*pip, "wheel", "--no-deps", "--no-build-isolation", abi, f"--wheel-dir={work}", str(source))
    subprocess.run(command, check=True, env=environment)
    (wheel,) = work.glob(f"tpm2_pytss-*+system-cp311-abi3-linux_{architecture}.whl")
    return wheel


def _pin() -> str:
    """Return the line of requirements/extras.txt for tpm2-pytss, with its hash."""
    text = (ROOT / "packaging" / "requirements" / "extras.txt").read_text()
    (entry,) = re.findall(r"^tpm2-pytss==.*(?:\\\n.*)+", text, re.MULTILINE)
    return str(entry) + "\n"


def _version() -> str:
    return _pin().partition("==")[2].split()[0]


def _audit(wheel: Path) -> None:
    """Check that a wheel uses nothing beyond the limited API of Python 3.11."""
    subprocess.run([sys.executable, "-m", "abi3audit", "--strict", "--summary", str(wheel)], check=True)


def _bundle(system: Path, bundled: Path, root: Path) -> None:
    """Write the wheel that has the libraries in it, from the one that has not."""
    with InWheelCtx(system, bundled) as opened:
        inside = Path(opened.path)
        (information,) = inside.glob("*.dist-info")
        new = information.with_name(information.name.replace("+system", "+bundled"))
        information.rename(new)
        _replace(new / "METADATA", "+system\n", "+bundled\n")
        _replace(new / "WHEEL", "-linux_", f"-{BUNDLED}_")
        folder = inside / "tpm2_pytss.libs"
        folder.mkdir()
        for name in (*LIBRARIES, LOADER, *TCTIS):
            copy = folder / _name(name)
            shutil.copy(_libraries(root) / name, copy)
            copy.chmod(0o755)
            _mend(copy, "$ORIGIN", "--set-soname", copy.name)
        (extension,) = inside.glob("tpm2_pytss/*.abi3.so")
        _mend(extension, "$ORIGIN/../tpm2_pytss.libs")
        _describe(new, bundled, root)


def _name(library: str) -> str:
    """Return the name of a bundled library."""
    return library if library in TCTIS else library.replace(".so", "-tpm2-pytss.so")


def _mend(file: Path, path: str, *options: str) -> None:
    """Make a library or the extension find the bundled libraries."""
    needed = subprocess.run(["patchelf", "--print-needed", file], check=True, stdout=subprocess.PIPE, text=True).stdout
    names = [name for name in needed.split() if name in (*LIBRARIES, LOADER)]
    renamed = [word for name in names for word in ("--replace-needed", name, _name(name))]
    subprocess.run(["patchelf", "--set-rpath", path, *renamed, *options, file], check=True)


def _replace(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(old, new))


def _describe(information: Path, wheel: Path, root: Path) -> None:
    """Add the licences of the bundled libraries, and a bill of materials (PEP 770)."""
    parts = []
    for source, package in SOURCES.items():
        shutil.copy(root / "usr" / "share" / "doc" / package / "copyright", information / "licenses" / f"{source}.txt")
        parts.append(_part(source, root / "usr" / "share" / "doc" / package / "changelog.Debian.gz"))
    # OpenSSL's licence refers to a file of Debian's. It is ours too.
    shutil.copy(ROOT / "LICENSE", information / "licenses" / "Apache-2.0.txt")
    version = f"{_version()}+bundled"
    component = {"type": "library", "name": "tpm2-pytss", "version": version, "bom-ref": wheel.name}
    component["purl"] = f"pkg:pypi/tpm2-pytss@{quote(version)}"
    bill: dict[str, Any] = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    bill |= {"metadata": {"component": component}, "components": parts}
    (information / "sboms").mkdir()
    (information / "sboms" / "debian.cdx.json").write_text(json.dumps(bill, indent=2) + "\n")


def _part(source: str, changelog: Path) -> dict[str, str]:
    """Return a source package of Debian's as a component of a bill of materials."""
    with gzip.open(changelog, "rt") as file:
        version = file.readline().split()[1].strip("()")
    purl = f"pkg:deb/debian/{source}@{version}?arch=source&distro={SUITE}"
    return {"type": "library", "name": source, "version": version, "bom-ref": purl, "purl": purl}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
