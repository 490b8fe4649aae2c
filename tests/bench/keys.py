"""Signatures per second with an open key, by backend: `python tests/bench/keys.py`.

For comparison, a program in C signs with the same key in the same run, through OpenSSL, the module or ESYS. Keys are on
P-256 unless the row says otherwise. Each signature is timed on its own. A figure is the lowest median of some rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402

import certs  # noqa: E402
from bench import pkcs11_signing, tpm2_signing  # noqa: E402
from bench.measure import table, verdict  # noqa: E402
from bench.pkcs11_signing import MESSAGE, median_microseconds  # noqa: E402
from hwsigner.key import open_key  # noqa: E402

ROUNDS = 5
SIGNATURES = 1000


@dataclass(frozen=True)
class Figure:
    """The time of a signature: microseconds with hwsigner and in C, and the verdict on its bound."""

    name: str
    ours: float
    judge: float
    bound: str = ""

    def row(self) -> list[str]:
        rate, ratio = f"{1e6 / self.ours:,.0f}", f"{self.ours / self.judge:.2f}"
        return [self.name, rate, f"{self.ours:.1f}", f"{self.judge:.1f}", ratio, self.bound]


def files() -> Iterator[Figure]:
    """Measure keys in files."""
    keys = {
        "file": ec.generate_private_key(ec.SECP256R1()),
        "file, RSA-2048": rsa.generate_private_key(65537, 2048),
    }
    with tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder:
        program, source = Path(folder) / "file_sign", Path(__file__).with_name("file_sign.c")
        subprocess.run(["cc", "-O2", "-o", str(program), str(source), "-lcrypto"], check=True)
        for name, key in keys.items():
            yield _file(name, certs.write_key(Path(folder) / "key.pem", key), program)


def _file(name: str, path: Path, program: Path) -> Figure:
    ours: list[float] = []
    judge: list[float] = []
    command: list[str | bytes | Path] = [program, path, MESSAGE, str(SIGNATURES)]
    with open_key(str(path)) as key:
        for _ in range(ROUNDS):
            judge.append(int(subprocess.run(command, check=True, capture_output=True).stdout) / 1000)
            ours.append(median_microseconds(lambda: key.sign(MESSAGE), SIGNATURES))
    return Figure(name, min(ours), min(judge))


def module() -> Figure:
    """Measure a key in a PKCS #11 token."""
    rows = pkcs11_signing.measure()
    ours, judge, bound = rows[pkcs11_signing.OURS], rows[pkcs11_signing.JUDGE], pkcs11_signing.BOUND
    return Figure("SoftHSM", ours, judge, f"at most {bound:g} µs more: {verdict(ours - judge <= bound)}")


def tpm() -> Iterator[Figure]:
    """Measure keys in a TPM, alone and behind a resource manager."""
    for row in tpm2_signing.measure():
        bound = f"at most {row.bound:g}: {verdict(row.ratio() <= row.bound)}" if row.bound else ""
        yield Figure(f"swtpm, {row.name}", min(row.our_times), min(row.judge_times), bound)


def main() -> None:
    """Measure every backend and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the microseconds of each")
    arguments = parser.parse_args()
    figures = [*files(), module(), *tpm()]
    head = ["Key", "signatures/s", "median, µs", "in C, µs", "ratio to C", "bound"]
    print(table(head, [figure.row() for figure in figures]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


if __name__ == "__main__":
    main()
