"""Build the source distribution and, from it, a wheel for each kind of Linux and one for macOS.

    python packaging/wheels/build.py FOLDER [ARCHITECTURE…]

The architecture is x86_64 or aarch64 for Linux, and arm64, its name on a Mac, for macOS. The compiler is Zig's, which
has the C libraries of every target, old ones too. Python must be the one that has packaging/requirements/release.txt
installed. Independent programs judge the result: auditwheel, and LIEF for macOS (the platform of each wheel's name is
true), abi3audit (no symbol beyond Python 3.11's limited API) and twine (the metadata).

Two runs write the same bytes: each wheel is built in a new temporary folder, and SOURCE_DATE_EPOCH dates the files.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

import ziglang

ROOT = Path(__file__).parents[2]
ZIG = Path(ziglang.__file__).parent / "zig"
ARCHITECTURES = ("x86_64", "aarch64")
# The platform in a wheel's name, and Zig's name of it: glibc 2.17 is of 2012, musl 1.2 and macOS 11 of 2020.
LINUX = {
    f"{platform}_{architecture}": f"{architecture}-{target}"
    for architecture in ARCHITECTURES
    for platform, target in {"manylinux_2_17": "linux-gnu.2.17", "musllinux_1_2": "linux-musl"}.items()
}
PLATFORMS = {**LINUX, "macosx_11_0_arm64": "aarch64-macos.11.0"}
# 1980, the first year of a zip file.
EPOCH = "315619200"
_VERSION = f"python{sysconfig.get_python_version()}"


def main(folder: str, *architectures: str) -> int:
    """Build everything into a folder, for these architectures or for all. Return the exit status."""
    out = Path(folder).resolve()
    out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", EPOCH)}
    _python("build", "--sdist", "--no-isolation", "--outdir", out, ROOT, environment=environment)
    (sdist,) = out.glob("hwsigner-*.tar.gz")
    wheels = []
    for name, target in PLATFORMS.items():
        if not architectures or name.endswith(tuple(f"_{architecture}" for architecture in architectures)):
            _build(sdist, out, name, {**environment, **_settings(name, target)})
            (wheel,) = out.glob(f"hwsigner-*-cp311-abi3-{name}.whl")
            wheels.append(wheel)
            if name in LINUX:
                judge(wheel, name)
            else:
                subprocess.run([sys.executable, Path(__file__).with_name("macho.py"), wheel], check=True)
    _python("abi3audit", "--strict", "--summary", *wheels)
    _python("twine", "check", "--strict", sdist, *wheels)
    return 0


def _settings(name: str, target: str) -> dict[str, str]:
    """Return the environment that makes CMake and scikit-build-core build for a target."""
    if name in LINUX:
        # The program is static, so musl's is best in every wheel: it is a tenth as large as with glibc.
        options = f"-DHWSIGNER_PROGRAM_TARGET={target.partition('-')[0]}-linux-musl"
    else:
        # The extension finds Python's symbols in the process. No path of this machine goes into it.
        flags = "-s -Wl,-undefined,dynamic_lookup -Wl,-install_name,_native.abi3.so"
        options = f"-DCMAKE_SKIP_RPATH=ON '-DCMAKE_MODULE_LINKER_FLAGS={flags}'"
    if target.endswith("-linux-musl"):
        # The process has musl. Distributions differ in the name of its file, so the extension names none.
        options += " '-DCMAKE_MODULE_LINKER_FLAGS=-s -nostdlib'"
    return {
        "CC": f"{ZIG} cc -target {target}",
        "LDFLAGS": "-s",
        "_PYTHON_HOST_PLATFORM": name,
        "CMAKE_ARGS": options,
    }


def _build(sdist: Path, out: Path, name: str, environment: dict[str, str]) -> None:
    """Build one wheel from the source distribution."""
    print(f"== {name}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hwsigner-wheel-") as temporary:
        work = Path(temporary)
        with tarfile.open(sdist) as archive:
            archive.extractall(work, filter="data")
        (source,) = work.glob("hwsigner-*")
        # Without optimisation, Zig builds its sanitizers, even for CMake's checks of the compiler.
        environment["CFLAGS"] = "-O2"
        if name in LINUX:
            environment["CFLAGS"] += f" -isystem {headers(work)}"
        else:
            # Zig has the symbols of the latest macOS, and its headers say since when.
            environment["CFLAGS"] += " -Werror=unguarded-availability"
            environment["CMAKE_ARGS"] += f" -DPython_INCLUDE_DIR={_macos_headers(work)}"
        options = ("--config-setting=hwsigner.native=true", "--config-setting=install.strip=false")
        _python("build", "--wheel", "--no-isolation", *options, "--outdir", out, source, environment=environment)


def headers(work: Path) -> Path:
    """Return a folder that has Debian's pyconfig.h, which is not beside the other headers, for every architecture.

    It is this machine's. The targets' differ from it only in what the limited API does not use.
    """
    folder = work / "headers"
    folder.mkdir()
    for architecture in ARCHITECTURES:
        (folder / f"{architecture}-linux-gnu").mkdir()
        (folder / f"{architecture}-linux-gnu" / _VERSION).symlink_to(_pyconfig())
    return folder


def _macos_headers(work: Path) -> Path:
    """Return a folder that has all headers and the same pyconfig.h, which Python's pymacconfig.h corrects for macOS."""
    folder = work / "headers"
    folder.mkdir()
    for header in Path("/usr/include", _VERSION).iterdir():
        (folder / header.name).symlink_to(header)
    (folder / "pyconfig.h").unlink()
    (folder / "pyconfig.h").symlink_to(_pyconfig() / "pyconfig.h")
    return folder


def _pyconfig() -> Path:
    """Return the folder of this machine's pyconfig.h."""
    return Path("/usr/include", sysconfig.get_config_var("MULTIARCH") or "", _VERSION)


def judge(wheel: Path, name: str) -> None:
    """Ask auditwheel for the oldest platform that a wheel runs on, which may be older than its name says."""
    command = [sys.executable, "-m", "auditwheel", "show", str(wheel)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    _, _, answer = text.partition("following platform tag:")
    (kind, *version, architecture), (found_kind, *found, found_architecture) = _split(name), _split(answer)
    if (kind, architecture) != (found_kind, found_architecture) or found > version:
        raise SystemExit(f"{text}\n{wheel.name} does not run where its name says.")


def _split(text: str) -> tuple[str, int, int, str]:
    """Return the parts of the first platform tag in a text."""
    found = re.search(r"([a-z]+)_(\d+)_(\d+)_(x86_64|aarch64)", text)
    return (found[1], int(found[2]), int(found[3]), found[4]) if found else ("", 0, 0, "")


def _python(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True, env=environment)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
