"""Judge a wheel for macOS, whose programs do not run here: `python packaging/wheels/macho.py WHEEL`.

LIEF reads the files. They must run on the macOS and the processor of the wheel's name, need no library but the system's
and no symbol but its and Python's, have no path of this machine in them, and be signed: an ARM64 Mac kills what is not,
and what was changed afterwards. Python must be the one that has packaging/requirements/release.txt installed.
"""

from __future__ import annotations

import hashlib
import re
import struct
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lief

ROOT = Path(__file__).parents[2]
EXTENSION, PROGRAM = "_native.abi3.so", "hwsigner-credentials"
LIBRARY = "/usr/lib/libSystem.B.dylib"
EXECUTABLE = 0o100755
# Apple's cs_blobs.h: the magic numbers of a signature and of its code directory, which names SHA-256 by 2; a flag.
SIGNATURE, DIRECTORY, SHA256, AD_HOC = 0xFADE0CC0, 0xFADE0C02, 2, 2
# LIEF reports a table that is empty.
lief.logging.disable()


def main(wheel: str) -> int:
    """Print what is wrong with a wheel. Return the exit status."""
    problems = list(judge(Path(wheel)))
    for problem in problems:
        print(f"{Path(wheel).name}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def judge(wheel: Path) -> Iterator[str]:
    """Yield what is wrong with a wheel."""
    match = re.search(r"-macosx_(\d+)_(\d+)_arm64\.whl$", wheel.name)
    if match is None:
        raise SystemExit(f"{wheel.name} is not a wheel for a Mac")
    with zipfile.ZipFile(wheel) as archive:
        files = {Path(file.filename).name: file for file in archive.infolist()}
        if files[PROGRAM].external_attr >> 16 != EXECUTABLE:
            yield f"{PROGRAM} can't be executed"
        for name in (EXTENSION, PROGRAM):
            for problem in judge_file(name, archive.read(files[name]), (int(match[1]), int(match[2]), 0)):
                yield f"{name} {problem}"


def judge_file(name: str, content: bytes, oldest: tuple[int, int, int]) -> Iterator[str]:
    """Yield what is wrong with the extension or the program.

    Args:
        name: which of them it is.
        content: the file.
        oldest: the version of macOS that it must run on.
    """
    binaries = lief.MachO.parse(content)
    if binaries is None or len(binaries) != 1:
        yield "is not a Mach-O file for one processor"
        return
    binary = binaries.at(0)
    kind = lief.MachO.Header.FILE_TYPE.DYLIB if name == EXTENSION else lief.MachO.Header.FILE_TYPE.EXECUTE
    if (binary.header.cpu_type, binary.header.file_type) != (lief.MachO.Header.CPU_TYPE.ARM64, kind):
        yield f"is {binary.header.file_type} for {binary.header.cpu_type}"
    version = binary.build_version
    if version is None or version.platform != lief.MachO.BuildVersion.PLATFORMS.MACOS or tuple(version.minos) > oldest:
        yield f"is not for macOS {oldest[0]}.{oldest[1]}: {version}"
    yield from _foreign(binary, content)
    yield from _unknown_symbols(name, binary)
    yield from _signature(binary, content)


def _foreign(binary: Any, content: bytes) -> Iterator[str]:
    """Yield libraries that a Mac may lack, folders to look for them in, and paths of this machine."""
    own = lief.MachO.LoadCommand.TYPE.ID_DYLIB
    for library in binary.libraries:
        if library.name != LIBRARY and (library.command != own or "/" in library.name):
            yield f"names the library {library.name}"
    for folder in binary.rpaths:
        yield f"looks for libraries in {folder.path}"
    for place in {str(ROOT), tempfile.gettempdir(), str(Path.home())} - {"/"}:
        if f"{place}/".encode() in content:
            yield f"has a path in {place}"


def _unknown_symbols(name: str, binary: Any) -> Iterator[str]:
    """Yield each symbol that is neither the system's nor, in the extension, Python's."""
    for symbol in binary.imported_symbols:
        binding = symbol.binding_info
        library = binding.library.name if binding is not None and binding.has_library else None
        is_pythons = name == EXTENSION and symbol.name.startswith(("_Py", "__Py"))
        if library != LIBRARY and not is_pythons:
            yield f"needs {symbol.name} of {library}"
    if name == EXTENSION and "_PyInit__native" not in [symbol.name for symbol in binary.exported_symbols]:
        yield "does not export PyInit__native"


def _signature(binary: Any, content: bytes) -> Iterator[str]:
    """Yield what is wrong with an ad-hoc signature: the hashes of all pages before it."""
    command = binary.code_signature
    if command is None:
        yield "is not signed"
        return
    signature = content[command.data_offset : command.data_offset + command.data_size]
    magic, _, count = struct.unpack_from(">3I", signature)
    offsets = dict(struct.unpack_from(">2I", signature, 12 + 8 * i) for i in range(count))
    directory = signature[offsets.get(0, 0) :]
    kind, _, _, flags, first, _, _, slots, limit, size, algorithm, _, page = struct.unpack_from(">9I4B", directory)
    if (magic, kind, algorithm, size, flags & AD_HOC) != (SIGNATURE, DIRECTORY, SHA256, 32, AD_HOC):
        yield "has a signature of another kind"
    pages = [content[begin : min(begin + (1 << page), limit)] for begin in range(0, limit, 1 << page)]
    hashes = [directory[first + i * size : first + (i + 1) * size] for i in range(slots)]
    if limit != command.data_offset or hashes != [hashlib.sha256(each).digest() for each in pages]:
        yield "has a signature of other bytes"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
