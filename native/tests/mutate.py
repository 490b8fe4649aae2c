#!/usr/bin/env python3
"""Mutate canonical.c and module.c, and see that each mutant is found out: `mutate.py [SAMPLE]`, a number for a part.

A mutant of canonical.c is found out by check.c, run plainly and, if it passes, with sanitizers; one of module.c by
twin.py under each Python that is here. Mutants that do not compile, and those compiled to the same machine code, are
none. A survivor must be explained in survivors.txt: `mutant` and, in the next line, indented, the reason.

Prints the survivors without an explanation, and explanations without a survivor; either is status 1.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

from mutations import Mutant, mutants

HERE = Path(__file__).parent
NATIVE = HERE.parent
EXPLAINED = HERE / "survivors.txt"
C = ("-std=c11", "-w", "-I", str(NATIVE))
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
SHIM = ("-Drealloc=test_realloc", "-Dfree=test_free", "-Dmemchr=test_memchr")
SECONDS = 20
MEMORY = 3 << 30
CODES = ("same code", "no compile", "killed", "killed by a sanitizer", "survived")


def run(command: Sequence[str | Path], *, seconds: int = 120, memory: int = -1, **variables: str) -> bool:
    """Tell whether a command succeeds, in that time (and a quarter of it of the processor's) and with that memory."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds // 4, seconds // 4))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    done = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **variables},
        preexec_fn=limit,
    )
    try:
        return done.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        done.kill()
        done.wait()
        return False


class Bench:
    """The compiled tests, and what each thread compiles its mutants in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases = folder / "cases"
        self.pythons = [found for version in ("3.11", "3.12", "3.13") if (found := find_python(version))]
        self.cc = "gcc"
        self.sanitizing = shutil.which("clang-19") or "gcc"
        self.pic = folder / "canonical.pic.o"
        self.runtimes = " ".join(output([self.cc, f"-print-file-name=lib{name}.so"]) for name in ("asan", "ubsan"))
        self._own = local()
        self.original: dict[str, bytes] = {}

    def prepare(self) -> None:
        """Compile the tests and write the cases; the unchanged sources must pass."""
        if not self.pythons:
            sys.exit("no Python from 3.11 on with its C headers is here")
        require(run([sys.executable, HERE / "cases.py", self.cases]))
        for source in ("check", "memory"):
            require(run([self.cc, *C, "-O1", "-c", HERE / f"{source}.c", "-o", self.folder / f"{source}.o"]))
            sanitized = self.folder / f"{source}.san.o"
            require(run([self.sanitizing, *C, *SANITIZERS, "-O1", "-c", HERE / f"{source}.c", "-o", sanitized]))
        require(run([self.cc, *C, "-O1", "-fPIC", "-c", NATIVE / "canonical.c", "-o", self.pic]))
        for file in ("canonical.c", "module.c"):
            outcome = self.judge(Mutant(file, 0, "", "", "", "", 0), (NATIVE / file).read_text())
            require(outcome == "survived", f"{file} as it is: {outcome}")
            self.original[file] = (self.own_folder() / f"{file}.o").read_bytes()

    def own_folder(self) -> Path:
        """Return the calling thread's folder."""
        if not hasattr(self._own, "folder"):
            self._own.folder = Path(tempfile.mkdtemp(dir=self.folder))
        return Path(self._own.folder)

    def judge(self, mutant: Mutant, source: str) -> str:
        """Return what becomes of a mutant: one of CODES."""
        folder = self.own_folder()
        changed = folder / mutant.file
        changed.write_text(mutant.apply(source))
        compiled = folder / f"{mutant.file}.o"
        flags = SHIM if mutant.file == "canonical.c" else module_flags(self.pythons[0])
        if not run([self.cc, *C, *flags, "-O1", "-c", changed, "-o", compiled]):
            return "no compile"
        if compiled.read_bytes() == self.original.get(mutant.file):
            return "same code"
        return self.judge_canonical(folder) if mutant.file == "canonical.c" else self.judge_module(folder)

    def judge_canonical(self, folder: Path) -> str:
        """Run check.c on what is compiled in a folder."""
        program = folder / "plain"
        objects = [self.folder / "check.o", self.folder / "memory.o", folder / "canonical.c.o"]
        require(run([self.cc, *objects, "-o", program]))
        if not run([program, self.cases], seconds=SECONDS, memory=MEMORY):
            return "killed"
        program = folder / "sanitized"
        objects = [self.folder / "check.san.o", self.folder / "memory.san.o", folder / "canonical.c"]
        require(run([self.sanitizing, *C, *SANITIZERS, *SHIM, "-O1", *objects, "-o", program]))
        return "survived" if run([program, self.cases], seconds=SECONDS) else "killed by a sanitizer"

    def judge_module(self, folder: Path) -> str:
        """Run twin.py on what is compiled in a folder."""
        extension = folder / "_native.so"
        require(run([self.cc, "-shared", folder / "module.c.o", self.pic, "-o", extension, "-lcrypto"]))
        for python in self.pythons:
            if not run([python, HERE / "twin.py", extension, self.folder], seconds=SECONDS):
                return "killed"
        flags = (*C, *SANITIZERS, *module_flags(self.pythons[-1]), "-O1", "-shared")
        require(run([self.cc, *flags, folder / "module.c", self.pic, "-o", extension, "-lcrypto"]))
        passed = run(
            [self.pythons[-1], HERE / "twin.py", extension, self.folder],
            seconds=SECONDS,
            LD_PRELOAD=self.runtimes,
            ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1",
            PYTHONMALLOC="malloc",
        )
        return "survived" if passed else "killed by a sanitizer"


def require(done: bool, what: str = "the tests cannot be prepared") -> None:
    """End the program unless something is done."""
    if not done:
        sys.exit(what)


def output(command: Sequence[str | Path]) -> str:
    """Return what a command prints; nothing if it fails."""
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def find_python(version: str) -> str:
    """Return the path of a Python of that version, or nothing."""
    return output([NATIVE.parent / ".ci" / "find-python", version])


def module_flags(python: str) -> list[str]:
    """Return what module.c is compiled with for a Python."""
    include = output([python, "-c", "import sysconfig; print(sysconfig.get_path('include'))"])
    return ["-fPIC", "-DPy_LIMITED_API=0x030B0000", f"-I{include}"]


def explained() -> dict[str, str]:
    """Return the reasons in survivors.txt by the mutants' keys. A key ending in ` *` stands for all changes there."""
    reasons: dict[str, str] = {}
    keys: list[str] = []
    for line in EXPLAINED.read_text().splitlines():
        if line.startswith("    "):
            reasons.update(dict.fromkeys(keys, line.strip()))
            keys = []
        elif line and not line.startswith("#"):
            keys.append(line)
    return reasons


def main() -> int:
    """Run all mutants, or a sample."""
    sources = {file: (NATIVE / file).read_text() for file in ("canonical.c", "module.c")}
    chosen = [mutant for file, source in sources.items() for mutant in mutants(file, source)]
    whole = len(chosen)
    if len(sys.argv) > 1:
        chosen = random.sample(chosen, int(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.prepare()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = list(pool.map(lambda mutant: bench.judge(mutant, sources[mutant.file]), chosen))
    for file in sources:
        counts = Counter(outcome for mutant, outcome in zip(chosen, outcomes, strict=True) if mutant.file == file)
        print(f"{file}: {', '.join(f'{counts[code]} {code}' for code in CODES)}")
    survivors = {mutant.key for mutant, outcome in zip(chosen, outcomes, strict=True) if outcome == "survived"}
    reasons = explained()
    missing = sorted(survivors - reasons.keys())
    stale = sorted(reasons.keys() - survivors) if len(chosen) == whole else []
    for line in [*(f"survived: {key}" for key in missing), *(f"explained, but no survivor: {key}" for key in stale)]:
        print(line)
    return 1 if missing or stale else 0


if __name__ == "__main__":
    sys.exit(main())
