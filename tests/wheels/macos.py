"""Test the wheel for macOS as far as Linux can: `python tests/wheels/macos.py DIST`.

Its judge, packaging/wheels/macho.py, must refuse a copy with any one fault. pip chooses and installs the wheel, and the
libraries that packaging/requirements/extras.txt pins, by its rules for a Mac. Needs the Python that has
packaging/requirements/release.txt installed.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from wheels.macho import EXTENSION, PROGRAM, ROOT, judge, judge_file

NAME = "macosx_11_0_arm64"
OLDEST = (11, 0, 0)
# LC_BUILD_VERSION, its size, macOS, and 11.0.
VERSION = bytes.fromhex("32000000 20000000 01000000 00000b00")
PINS = ROOT / "packaging" / "requirements" / "extras.txt"
# A fault, what is replaced in a file, by what, and what the judge says.
FAULTS = (
    ("a changed byte", b"notes\n", b"Notes\n", "has a signature of other bytes"),
    ("a later macOS", VERSION, VERSION.replace(b"\x0b", b"\x0c"), "is not for macOS 11.0"),
    ("iOS", VERSION, VERSION.replace(b"\x01", b"\x02"), "is not for macOS 11.0"),
    ("another library", b"/usr/lib/libSystem.B", b"/opt/lib/libSystem.B", "names the library /opt/lib/libSystem.B"),
    ("a path as its name", b"\0_native.abi3.so\0", b"\0/ative.abi3.so\0\0", "names the library /ative.abi3.so"),
    ("a symbol that no one has", b"PyErr_Clear\0", b"XyErr_Clear\0", "needs _XyErr_Clear"),
    ("no function to call", b"PyInit__native\0", b"PyInit__motive\0", "does not export PyInit__native"),
    ("another processor", b"\xcf\xfa\xed\xfe\x0c", b"\xcf\xfa\xed\xfe\x07", "X86_64"),
    ("no signature", b"\x1d\0\0\0\x10\0\0\0", b"\x1b\0\0\0\x10\0\0\0", "is not signed"),
    ("a signature by a key", b"\xfa\xde\x0c\x02", b"\xfa\xde\x0b\x01", "has a signature of another kind"),
    ("a path of this machine", b"can't write to stdout", f"{ROOT}/native/credentials"[:21].encode(), "has a path in"),
)


def main(dist: str) -> int:
    """Test the wheel in a folder. Return the exit status."""
    (wheel,) = Path(dist).resolve().glob(f"hwsigner-*-cp311-abi3-{NAME}.whl")
    assert list(judge(wheel)) == []
    with zipfile.ZipFile(wheel) as archive:
        check_record(archive)
        files = {Path(name).name: archive.read(name) for name in archive.namelist()}
    assert b"_ptrace\0" in files[PROGRAM]  # For PT_DENY_ATTACH.
    for fault, old, new, wanted in FAULTS:
        said = [
            f"{name} {problem}"
            for name in (EXTENSION, PROGRAM)
            if old in files[name]
            for problem in judge_file(name, files[name].replace(old, new), OLDEST)
        ]
        assert any(wanted in problem for problem in said), (fault, said)
    print(f"The judge finds {len(FAULTS)} faults.", flush=True)
    with tempfile.TemporaryDirectory(prefix="hwsigner-macos-") as folder:
        check_mode(wheel, Path(folder))
        install(wheel, Path(folder))
    return 0


def check_record(archive: zipfile.ZipFile) -> None:
    """Check that RECORD has each file's hash and size, and WHEEL the tag."""
    (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
    rows = list(csv.reader(archive.read(record).decode().splitlines()))
    assert sorted(row[0] for row in rows) == sorted(archive.namelist())
    for name, digest, size in rows:
        content = archive.read(name)
        encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        assert name == record or (digest, size) == (f"sha256={encoded}", str(len(content))), name
    tags = archive.read(record.replace("RECORD", "WHEEL")).decode()
    assert re.findall(r"^(?:Tag|Root-Is-Purelib): (.*)$", tags, re.MULTILINE) == ["false", f"cp311-abi3-{NAME}"], tags


def check_mode(wheel: Path, folder: Path) -> None:
    """Check that the judge sees a program that can't be executed."""
    copy = folder / wheel.name
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(copy, "w") as changed:
        for file in archive.infolist():
            content = archive.read(file)
            if file.filename.endswith(f"/{PROGRAM}"):
                file.external_attr = 0o100644 << 16
            changed.writestr(file, content)
    assert list(judge(copy)) == [f"{PROGRAM} can't be executed"]
    copy.unlink()


def install(wheel: Path, folder: Path) -> None:
    """Install the wheel with its extras, except tpm2, by pip's rules for a Mac."""
    pins = folder / "pins.txt"
    pins.write_text(re.sub(r"^tpm2-pytss==.*(\\\n.*)+\n", "", PINS.read_text(), flags=re.MULTILINE))
    platform = ("--quiet", f"--platform={NAME}", "--python-version=3.13", "--only-binary=:all:")
    pip(*platform, "--no-deps", "--require-hashes", f"--dest={folder}", f"--requirement={pins}", command="download")
    offline = ("--no-index", f"--find-links={folder}", f"--find-links={wheel.parent}")
    extras = "hwsigner[pkcs11,requests,aws,serve,completion]"
    pip(*platform, *offline, "--no-compile", f"--target={folder / 'installed'}", extras, command="install")
    program = folder / "installed" / "bin" / PROGRAM
    assert program.stat().st_mode & 0o777 == 0o755
    with zipfile.ZipFile(wheel) as archive:
        assert program.read_bytes() in [archive.read(name) for name in archive.namelist() if name.endswith(PROGRAM)]
    assert (folder / "installed" / "hwsigner" / EXTENSION).exists()
    assert list((folder / "installed" / "cryptography").rglob("*.abi3.so"))
    print("pip installs the wheel and its libraries for a Mac.", flush=True)


def pip(*arguments: str, command: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", command, *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
