"""The setting of a provider's test: an emulator, a clock that the test advances, a leaf with its key in files."""

from __future__ import annotations

import base64
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

import certs
from hwsigner._aws.create_session import SessionRequest, find_service
from hwsigner._identity import IdentitySource
from hwsigner._refresh.provider import Provider
from hwsigner.emulator import Emulator, World

PASSPHRASE = "hunter2-passphrase"


class FakeClock:
    """The true time, which a test advances, and a wall clock that may be wrong."""

    def __init__(self) -> None:
        self.start = datetime.now(UTC)
        self.elapsed = 0.0
        self.off = 0.0
        self.paused = 0.0

    def true(self) -> datetime:
        return self.start + timedelta(seconds=self.elapsed)

    def now(self) -> datetime:
        return self.true() + timedelta(seconds=self.off)

    def monotonic(self) -> float:
        return 5000 + self.elapsed - self.paused

    def advance(self, seconds: float) -> None:
        self.elapsed += seconds


@dataclass
class Stage:
    """An emulator that trusts a CA, a clock, and a leaf with its key in files."""

    ca: certs.Authority
    clock: FakeClock
    emulator: Emulator
    folder: Path

    @property
    def leaf(self) -> Path:
        return self.folder / "leaf.pem"

    @property
    def key(self) -> Path:
        return self.folder / "leaf.key"

    def write_leaf(self, key: ec.EllipticCurvePrivateKey, shape: certs.Shape = certs.LEAF) -> None:
        self.leaf.write_bytes(certs.pem(certs.issue(self.ca, key.public_key(), shape)))

    def encrypt_key(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.write_leaf(key)
        encryption = BestAvailableEncryption(PASSPHRASE.encode())
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))

    def provider(self, source: Any = None, *, duration: int = 3600, attempts: int = 1) -> Provider:
        emulator, clock = self.emulator, self.clock
        service = find_service("us-east-1", endpoint=emulator.url, environ={})
        return Provider(
            source or IdentitySource(str(self.leaf), str(self.key)),
            SessionRequest(emulator.trust_anchor_arn, emulator.profile_arn, emulator.role_arn, duration),
            service._replace(max_attempts=attempts),
            now=clock.now,
            monotonic=clock.monotonic,
            sleep=clock.advance,
        )

    @property
    def count(self) -> int:
        """How many CreateSession requests were received."""
        return len(self.emulator.requests)

    def leaf_of_last_request(self) -> x509.Certificate:
        header = dict(self.emulator.requests[-1].headers)["X-Amz-X509"]
        return x509.load_der_x509_certificate(base64.b64decode(header))


@contextmanager
def make_stage(ca: certs.Authority, folder: Path) -> Iterator[Stage]:
    clock = FakeClock()
    with Emulator(World.simple(ca.certificate), clock=clock.true) as emulator:
        stage = Stage(ca, clock, emulator, folder)
        key = ec.generate_private_key(ec.SECP256R1())
        stage.write_leaf(key)
        certs.write_key(stage.key, key)
        yield stage


def in_threads(number: int, call: Callable[[], Any]) -> list[Any]:
    """Run a call in many threads that start at once. Return each result or exception."""
    barrier = threading.Barrier(number)

    def run(_: int) -> Any:
        barrier.wait(20)
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number), timeout=20))


def in_child(call: Callable[[], object]) -> str:
    """Return the result of a call in a forked process as text, or the last line of its exception."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns that other threads are running.
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # Not pytest's.
        signal.alarm(50)
        try:
            answer = str(call())
        except BaseException as error:
            answer = traceback.format_exception_only(error)[-1].strip()
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "the child waited for ever"
    return answer
