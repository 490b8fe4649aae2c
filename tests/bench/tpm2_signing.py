"""What a signature of a TPM costs beyond ESYS's own work: `python tests/bench/tpm2_signing.py`.

swtpm, P-256, in one run with a program in C that gives the TPM the same commands. Medians in microseconds, the least of
some rounds. Behind a resource manager the key stays loaded. Without one, each signature loads its saved context and
flushes it, because others may need the TPM's three slots; with an auth value, it also starts a session.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from hwsigner.key import open_key  # noqa: E402
from softhsm.tabrmd import ResourceManager  # noqa: E402
from softhsm.tpm import SoftTPM  # noqa: E402

BOUND = 1.2
SIGNATURES = 500
ROUNDS = 4
AUTH = "4711"
MESSAGE = b"AWS4-X509-ECDSA-SHA256\n20250101T000000Z\n20250101/us-east-1/rolesanywhere/aws4_request\n" + b"0" * 64


@dataclass
class Row:
    """One case: its name, the command in C and ours, the bound of their ratio, and the times of each."""

    name: str
    judge: list[str]
    ours: list[str]
    environment: Mapping[str, str]
    bound: float | None = None
    judge_times: list[float] = field(default_factory=list)
    our_times: list[float] = field(default_factory=list)

    def run(self) -> None:
        self.judge_times.append(int(self._output(self.judge)) / 1000)
        self.our_times.append(float(self._output(self.ours)))

    def ratio(self) -> float:
        return min(self.our_times) / min(self.judge_times)

    def _output(self, command: list[str]) -> str:
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Measure, and print a table."""
    print(f"{'swtpm, P-256, one signature':<64}{'C, µs':>9}{'ours, µs':>10}{'ratio':>8}")
    for row in measure():
        verdict = "" if row.bound is None else f"  {'within' if row.ratio() <= row.bound else 'over'} {row.bound}"
        print(f"{row.name:<64}{min(row.judge_times):9.1f}{min(row.our_times):10.1f}{row.ratio():8.2f}{verdict}")


def measure() -> list[Row]:
    """Return every case, timed."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as name, _rows(Path(name)) as rows:
        for _ in range(ROUNDS):
            for row in rows:
                row.run()
        return rows


@contextmanager
def _rows(folder: Path) -> Iterator[list[Row]]:
    program = str(folder / "tpm2_sign")
    libraries = ["-ltss2-esys", "-ltss2-tctildr"]
    subprocess.run(["cc", "-O2", "-o", program, str(HERE / "tpm2_sign.c"), *libraries], check=True)
    tpm = SoftTPM(folder / "tpm")
    (folder / "tpm").mkdir()
    tpm.start()
    try:
        keys = {auth: folder / f"key{auth}" for auth in ("", AUTH)}
        for auth, path in keys.items():
            tpm.create_key_file(path, "EC:P-256", auth)
        handle = 0x81000001
        tpm.persist(handle, "ecc256")
        folders = {name: str(folder / name) for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR")}
        for name in folders.values():
            os.mkdir(name, 0o700)
        with ResourceManager(tpm) as manager:
            environment = folders | manager.env
            modes = [
                ("tabrmd", manager.tcti, "loaded", "the key stays loaded", "encrypted session"),
                ("alone", tpm.tcti, "shared", "saved key: load, sign, flush", "an encrypted session each"),
            ]
            rows = []
            for place, tcti, mode, what, session in modes:
                for auth, path in keys.items():
                    judge = [program, tcti, mode, auth, str(SIGNATURES)]
                    ours = [sys.executable, __file__, f"tpm2:path={path}?tcti={tcti}", auth]
                    bound = BOUND if mode == "loaded" and not auth else None
                    name = f"{place}, {what}, {session}" if auth else f"{place}, {what}"
                    rows.append(Row(name, judge, ours, environment, bound))
            judge = [program, tpm.tcti, "loaded", "", str(SIGNATURES)]
            ours = [sys.executable, __file__, tpm.uri(handle), ""]
            name = "alone, persistent handle against a key that stays loaded"
            rows.append(Row(name, judge, ours, environment, BOUND))
            ours = [sys.executable, __file__, f"tpm2:path={keys['']}?tcti={tpm.tcti}", ""]
            rows.append(Row("alone, saved key against one that stays loaded", judge, ours, environment))
            yield rows
    finally:
        tpm.stop()


def sign(uri: str, auth: str) -> None:
    """Print the median time of one signature."""
    times = []
    with open_key(uri, auth) as key:
        key.sign(MESSAGE)
        for _ in range(SIGNATURES):
            began = time.perf_counter_ns()
            key.sign(MESSAGE)
            times.append(time.perf_counter_ns() - began)
    print(statistics.median(times) / 1000)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sign(*sys.argv[1:])
    else:
        main()
