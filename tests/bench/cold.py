"""What a cold `hwsigner credential-process` costs: `python tests/bench/cold.py`.

Commands run in turn, each as a whole process with an empty environment, against a server on the loopback interface that
responds at once. The figures are medians, and ratios of the processor time (user and system), which hardly depend on
what else the machine does. The server and swtpm are other processes, and not in it.
"""

from __future__ import annotations

import argparse
import json
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
# In place of this folder, whose serving.py would hide tests/serving.
sys.path[:1] = [str(TESTS), str(TESTS.parent)]

from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

import certs  # noqa: E402
from bench.measure import table, verdict  # noqa: E402
from hwsigner.emulator.tls import make_tls  # noqa: E402
from softhsm.token import SoftHSM  # noqa: E402
from softhsm.tpm import SoftTPM  # noqa: E402

ROLE = "arn:aws:iam::123456789012:role/bench"
ARNS = (
    "--trust-anchor-arn=arn:aws:rolesanywhere:us-east-1:123456789012:trust-anchor/00000000-0000-4000-8000-000000000000",
    "--profile-arn=arn:aws:rolesanywhere:us-east-1:123456789012:profile/11111111-1111-4111-8111-111111111111",
    f"--role-arn={ROLE}",
)
PROGRAM = Path(sys.executable).parent / "hwsigner"
IMPORTS = "import http.client, ssl, cryptography.x509"
"""What no program that does this work can do without."""
HEAD = ["Command", "processor, ms", "ratio to the bare interpreter", "bound", "ratio to its floor", "elapsed, ms"]
BOUNDS = {"hwsigner, file": 8.2, "hwsigner, SoftHSM": 9.3, "hwsigner, swtpm": 10.8}
"""The largest ratios to the bare interpreter."""


@dataclass
class Case:
    """A command to time, and the seconds that its runs took: by a clock, and of a processor."""

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    processor_times: list[float] = field(default_factory=list)

    def run(self) -> None:
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **self.environment}
        before, begin = _children_seconds(), time.perf_counter()
        done = subprocess.run(self.command, env=environment, capture_output=True, text=True)
        self.times.append(time.perf_counter() - begin)
        self.processor_times.append(_children_seconds() - before)
        if done.returncode:
            raise SystemExit(f"{self.name} failed: {done.stderr}")

    def forget(self) -> None:
        """Forget the runs so far."""
        self.times.clear()
        self.processor_times.clear()

    def ratio(self, other: Case) -> float:
        """Return the ratio of this command's processor time to the other's: the median over the rounds."""
        return statistics.median(a / b for a, b in zip(self.processor_times, other.processor_times, strict=True))


def _children_seconds() -> float:
    """Return the processor time of all children of this process that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Handler(BaseHTTPRequestHandler):
    """Responds to every POST at once, with the same credentials."""

    protocol_version = "HTTP/1.1"
    # Otherwise a client sometimes waits 40 ms for its own acknowledgement of the TLS session tickets.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        credentials = {
            "accessKeyId": "ASIAEXAMPLE",
            "secretAccessKey": "example",
            "sessionToken": "example",
            "expiration": f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        }
        user = {"arn": "arn:aws:sts::123456789012:assumed-role/bench/1", "assumedRoleId": "AROA:1"}
        entry = {"credentials": credentials, "roleArn": ROLE, "assumedRoleUser": user}
        body = json.dumps({"credentialSet": [entry], "subjectArn": "arn"}).encode()
        head = f"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(context: ssl.SSLContext) -> Iterator[str]:
    """Serve HTTPS on the loopback interface and yield the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@contextmanager
def cases(folder: Path, program: Path) -> Iterator[list[Case]]:
    """Make keys, certificates and the server, and yield the cases, the bare interpreter first."""
    python = str(program.parent / "python")
    ca = certs.make_ca()
    context, ca_file = make_tls(folder, ["127.0.0.1"])
    hsm, tpm = SoftHSM(folder / "hsm"), SoftTPM(folder / "tpm")
    hsm.make()
    hsm.add_token("bench", "1234")
    hsm.generate("key", b"\x01", "EC:prime256v1")
    (folder / "pin").write_text("1234")
    (folder / "pin").chmod(0o600)
    (folder / "tpm").mkdir()
    tpm.start()
    try:
        with serve(context) as url:
            file_key = ec.generate_private_key(ec.SECP256R1())
            tpm.create_key_file(folder / "key.tss2", "EC:P-256")
            public_keys = (file_key.public_key(), hsm.public_key(b"\x01"), tpm.public_key(folder / "key.tss2"))
            names = {
                "file": (str(certs.write_key(folder / "key.pem", file_key)), {}),
                "SoftHSM": (hsm.uri("key", folder / "pin"), hsm.env),
                "swtpm": (str(folder / "key.tss2"), {"TPM2_TCTI": tpm.tcti}),
            }
            found = [Case(f"python -I -c '{code}'", [python, "-I", "-c", code]) for code in ("pass", IMPORTS)]
            for (name, (uri, environment)), public_key in zip(names.items(), public_keys, strict=True):
                leaf = folder / f"{name}.pem"
                leaf.write_bytes(certs.pem(certs.issue(ca, public_key)))
                flags = [f"--certificate={leaf}", f"--private-key={uri}", f"--endpoint={url}", *ARNS]
                environment = {"HOME": str(folder), "AWS_CA_BUNDLE": str(ca_file), **environment}
                floor = [python, str(TESTS / "bench" / "floor.py"), *flags]
                found.append(Case(f"floor, {name}", floor, environment))
                found.append(Case(f"hwsigner, {name}", [str(program), "credential-process", *flags], environment))
            yield found
    finally:
        tpm.stop()


def rows(found: list[Case]) -> Iterator[list[str]]:
    """Yield the rows of the table. Each row of ours follows the row of its floor."""
    bare = found[0]
    for before, case in zip([bare, *found], found, strict=False):
        processor, elapsed = (statistics.median(times) * 1000 for times in (case.processor_times, case.times))
        row = [case.name, f"{processor:.1f}", f"{case.ratio(bare):.2f}", "", "", f"{elapsed:.1f}"]
        if case.name in BOUNDS:
            bound = BOUNDS[case.name]
            row[3:5] = f"at most {bound:g}: {verdict(case.ratio(bare) <= bound)}", f"{case.ratio(before):.2f}"
        yield row


def main() -> None:
    """Time every case in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--program", type=Path, default=PROGRAM, help="the hwsigner to measure (default: %(default)s)")
    arguments = parser.parse_args()
    rounds, program = arguments.rounds, arguments.program.absolute()
    with tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder, cases(Path(folder), program) as found:
        for case in found:  # A first run that does not count, so that every module is compiled.
            case.run()
            case.forget()
        for _ in range(rounds):
            for case in found:
                case.run()
    print(f"Python {sys.version.split()[0]}, {rounds} rounds\n")
    print(table(HEAD, rows(found)), flush=True)


if __name__ == "__main__":
    main()
