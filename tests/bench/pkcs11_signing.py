"""What a signature through PKCS #11 costs beyond the module's own work: `python tests/bench/pkcs11_signing.py`.

SoftHSM, P-256. The judge is a program in C on the same module. Medians in microseconds, the least of five rounds that
take turns; exits with 1 if the difference is over the bound.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from hwsigner._system import notices  # noqa: E402
from hwsigner.key import open_key  # noqa: E402
from softhsm.token import SoftHSM  # noqa: E402

BOUND = 15.0
SIGNATURES = 2000
ROUNDS = 5
JUDGE, OURS = "C: C_SignInit, C_Sign", "hwsigner: Key.sign"
MESSAGE = b"AWS4-X509-ECDSA-SHA256\n20250101T000000Z\n20250101/us-east-1/rolesanywhere/aws4_request\n" + b"0" * 64


def main() -> int:
    """Measure, print a table, and return the exit status."""
    rows = measure()
    floor = rows[JUDGE]
    print(f"{'SoftHSM, P-256, one signature':<44}{'µs':>8}{'more':>8}")
    for name, microseconds in rows.items():
        print(f"{name:<44}{microseconds:8.1f}{microseconds - floor:8.1f}")
    return int(rows[OURS] - floor > BOUND)


def measure() -> dict[str, float]:
    """Return the microseconds of each way to sign."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder:
        hsm = SoftHSM(Path(folder) / "hsm")
        hsm.make()
        hsm.add_token("bench")
        hsm.generate("P-256", b"\x01", "EC:prime256v1")
        os.environ |= hsm.env
        program = Path(folder) / "pkcs11_sign"
        subprocess.run(["cc", "-O2", "-o", str(program), str(HERE / "pkcs11_sign.c")], check=True)
        return _measure(hsm, program)


def _measure(hsm: SoftHSM, program: Path) -> dict[str, float]:
    key = open_key(hsm.uri("P-256"), hsm.pin)
    sign = partial(median_microseconds, lambda: key.sign(MESSAGE), SIGNATURES)
    rows: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        rows[JUDGE].append(_by_c(hsm, program))
        rows[OURS].append(sign())
        notices.set_notifier(lambda text: None)
        rows["hwsigner: Key.sign, with a notice of a touch"].append(sign())
        notices.set_notifier(None)
    key.close()
    return {name: min(times) for name, times in rows.items()}


def _by_c(hsm: SoftHSM, program: Path) -> float:
    command = [str(program), hsm.module, hsm.label, hsm.pin, "P-256", str(SIGNATURES)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1000


def median_microseconds(work: Callable[[], object], count: int) -> float:
    """Return the median time of one call, in microseconds."""
    times = []
    for _ in range(count):
        began = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1000


if __name__ == "__main__":
    sys.exit(main())
